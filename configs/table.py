"""Your own log and catalogue as tables, split at two moments in time.

Command:   python -m recjax.main --config=configs/table.py:cpu --config.data.raw_dir=FOLDER --config.data.name=NAME
Hardware:  one accelerator; 2 cores with :cpu

FOLDER holds interactions.csv or .parquet (user, item, time; optional: rating, event) and items.csv or .parquet
(item; optional: title, brand, description, categories, price). NAME names the prepared folder. Set other
column names with `--config.data.user_column` and so on. Users and items with fewer than five interactions are left
out and counted; `--config.data.k_core=0` keeps them. `--config.data.split=leave_one_out` holds out each user's
last two interactions instead. Sizes are chosen from the data: see docs/configuration.md.
"""

from configs import common


def get_config(variant: str = ''):
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
  config.eval.patience = 5
  config.packing.row_length = config.packing.decoder_row_length = config.packing.rows = None
  config.batch_size = config.num_train_steps = config.optim.warmup_steps = None
  config.num_epochs = None if small else 20.0
  config.eval_every_steps = config.checkpoint_every_steps = config.log_every_steps = None
  config.eval.eval_users = config.eval.batch_size = None
  return common.vary(config, variant)
