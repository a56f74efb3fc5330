"""Your own log and catalogue as tables, split at two moments in time.

Command:   python -m recjax.main --config=configs/table.py:cpu --config.data.raw_dir=FOLDER --config.data.name=NAME
Hardware:  one accelerator; 2 cores with :cpu

FOLDER holds interactions.csv or .parquet (user, item, time; optional: rating, event) and items.csv or .parquet
(item; optional: title, brand, description, categories, price). NAME names the prepared folder. Set other
column names with `--config.data.user_column` and so on. Users and items with fewer than five interactions are left
out and counted; `--config.data.k_core=0` keeps them. `--config.data.split=leave_one_out` holds out each user's
last two interactions instead.
"""

from configs import common


def get_config(variant: str = ''):
  small = variant in common.SMALL  # for two cores
  config = common.start('table', 'table')
  config.data.k_core = 5
  config.data.split = 'global_time'
  config.sids.codes = (256, 256, 256)
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return common.vary(config, variant)
