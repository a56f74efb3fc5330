"""A log and a catalogue of one's own, split at two moments in time.

Command:   python -m recjax.main --config=configs/table.py:cpu --config.data.raw_dir=FOLDER --config.data.name=NAME
Hardware:  2 cores, or one accelerator without :cpu

FOLDER holds interactions.csv or .parquet (user, item, time; perhaps rating, event) and items.csv or
.parquet (item; perhaps title, brand, description, categories, price); NAME names the prepared folder. Columns
of other names go by `--config.data.user_column` and so on. Users and items of fewer than five interactions are left
out and counted (`--config.data.k_core=0` keeps them). `--config.data.split=leave_one_out` holds the
last two interactions of every user out instead.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.experiment('table', 'table', variant)
  config.data.split = 'global_time'
  return config
