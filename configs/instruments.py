"""Amazon Musical Instruments (2018, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/instruments.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none; the raw files were not available.

The published reviews repeat some lines; these are read once. For another category set
`--config.data.category` and `--config.data.name`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.start('amazon2018', 'instruments', category='Musical_Instruments')
  config.data.k_core = 5
  config.data.duplicates = 'drop'
  config.sids.codes = (256, 256, 256)
  return common.vary(common.flat(config, variant), variant)
