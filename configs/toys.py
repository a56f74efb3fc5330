"""Amazon Toys and Games (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/toys.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  common.check_variant(variant, ('', 'cpu'))
  config = common.amazon2014('toys', 'Toys_and_Games')
  if variant == 'cpu':
    common.two_cores(config)
    config.num_train_steps = 2000
  return config
