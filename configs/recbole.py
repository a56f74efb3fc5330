"""A data set of RecBole's atomic files, leave-one-out; the default is ml-100k.

Command:   python -m recjax.main --config=configs/recbole.py:cpu --config.data.raw_dir=FOLDER --config.data.category=C --config.data.name=NAME
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none.

FOLDER holds C.inter and C.item; NAME names the prepared folder.
"""

from configs import common


def get_config(variant: str = ''):
  small = variant in common.SMALL  # for two cores
  config = common.start('recbole', 'recbole', category='ml-100k')
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
  return common.vary(config, variant)
