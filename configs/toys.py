"""Amazon Toys and Games (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/toys.py:cpu --config.data.raw_dir=FOLDER
Figure:   none yet; the raw files were not at hand.
"""

from configs import common


def get_config(variant: str = ''):
  return common.experiment('amazon2014', 'toys', variant, category='Toys_and_Games')
