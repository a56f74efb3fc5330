"""Your own log and catalogue as tables, split at two moments in time.

Command:   python -m recjax.main --config=configs/table.py:cpu --config.data.raw_dir=FOLDER --config.data.name=NAME
           python -m recjax.main --config=configs/table.py:item-cpu …
Hardware:  one accelerator; 2 cores with :cpu and :item-cpu

`cpu` and the default are a flattened decoder, to which tasks in words can be added. `item` and `item-cpu` are the recipe of
configs/beauty.py without its other tasks: the item decoder with an item head, counts and texts as scores.

FOLDER holds interactions.csv or .parquet (user, item, time; optional: rating, event) and items.csv or .parquet
(item; optional: title, brand, description, categories, price). NAME names the prepared folder. Set other
column names with `--config.data.user_column` and so on. Users and items with fewer than five interactions are left
out and counted; `--config.data.k_core=0` keeps them. `--config.data.split=leave_one_out` holds out each user's
last two interactions instead. Sizes are chosen from the data: see docs/configuration.md.
"""

from configs import common

ITEM = {'item': 24.0, 'item-cpu': 16.0}  # variants with the item decoder, and their epochs


def get_config(variant: str = ''):
  common.check_variant(variant, (*common.VARIANTS, *ITEM))
  small = variant in common.SMALL  # for two cores
  config = common.start('table', 'table')
  config.data.k_core = 5
  config.data.split = 'global_time'
  config.sids.codes = ()  # () and None: from the data
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.optim.learning_rate = 2e-3
  if variant in ITEM:
    config = common.item_decoder(config, ITEM[variant])
  else:
    config.num_epochs = None if small else 20.0
    config.eval.patience = 5
  config.packing.row_length = config.packing.decoder_row_length = config.packing.rows = None
  config.batch_size = config.num_train_steps = config.optim.warmup_steps = None
  config.eval_every_steps = config.checkpoint_every_steps = config.log_every_steps = None
  config.eval.eval_users = config.eval.batch_size = None
  return config if variant in ITEM else common.vary(config, variant)
