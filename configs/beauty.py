"""Amazon Beauty (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  common.check_variant(variant, ('', 'cpu'))
  config = common.amazon2014('beauty', 'Beauty')
  if variant == 'cpu':
    common.two_cores(config)
    config.num_train_steps = 2000
  return config
