"""Amazon Toys and Games (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/toys.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none; the raw files were not available.
"""

from configs import common


def get_config(variant: str = ''):
  small = common.without_mixture(variant) in common.SMALL  # for two cores
  config = common.start('amazon2014', 'toys', category='Toys_and_Games')
  config.data.k_core = 5
  config.sids.codes = (256, 256, 256)
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return common.interleave(config, variant)
