"""Amazon Video Games (2023, the 5-core benchmark), leave-one-out.

Command:   python -m recjax.main --config=configs/games.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none; the raw files were not available.

FOLDER may hold all reviews (Video_Games.jsonl.gz) instead of the benchmark; repeated lines are read once. For another
category set `--config.data.category` and `--config.data.name`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.start('amazon2023', 'games', category='Video_Games')
  config.data.k_core = 5
  config.data.duplicates = 'drop'
  config.sids.codes = (256, 256, 256)
  return common.vary(common.flat(config, variant), variant)
