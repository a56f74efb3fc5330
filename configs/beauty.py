"""Amazon Beauty (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  common.check_variant(variant, ('', 'cpu'))
  config = common.amazon2014('beauty', 'Beauty')
  config.batch_size = 64
  config.num_train_steps = 2400
  config.eval_every_steps = 400
  config.checkpoint_every_steps = 200
  return config
