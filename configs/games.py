"""Amazon Video Games (2023, the 5-core benchmark), leave-one-out.

Command:   python -m recjax.main --config=configs/games.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; :cpu has the sizes for 2 cores
Figure:    none yet; the raw files were not at hand.

FOLDER may hold all reviews (Video_Games.jsonl.gz) instead of the benchmark; what they repeat is read once.
Any other category goes by `--config.data.category` and `--config.data.name`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.experiment('amazon2023', 'games', variant, category='Video_Games')
  config.data.duplicates = 'drop'
  return config
