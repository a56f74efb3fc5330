"""Amazon Toys and Games (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/toys.py:cpu --config.data.raw_dir=FOLDER
Figure:   none yet; the raw files were not at hand.
"""

from configs import common


def get_config(variant: str = ''):
  return common.amazon2014('toys', 'Toys_and_Games', variant)
