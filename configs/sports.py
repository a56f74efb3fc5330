"""Amazon Sports and Outdoors (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/sports.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  config = common.amazon2014('sports', 'Sports_and_Outdoors', variant)
  config.data.item_text = 'generated'  # of the copy that the figures above were measured on
  return config
