"""Amazon Sports and Outdoors (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/sports.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  common.check_variant(variant, ('', 'cpu'))
  config = common.amazon2014('sports', 'Sports_and_Outdoors')
  config.data.item_text = 'generated'
  if variant == 'cpu':
    common.two_cores(config)
    config.num_train_steps = 2000
  return config
