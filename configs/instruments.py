"""Amazon Musical Instruments (2018, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/instruments.py:cpu --config.data.raw_dir=FOLDER
Hardware:  2 cores, or one accelerator without :cpu
Figure:    none yet; the raw files were not at hand.

The published reviews repeat some lines; they are read once. Any other category goes by
`--config.data.category` and `--config.data.name`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.experiment('amazon2018', 'instruments', variant, category='Musical_Instruments')
  config.data.duplicates = 'drop'
  return config
