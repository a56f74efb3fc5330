"""A data set of RecBole's atomic files, leave-one-out; the default is ml-100k.

Command:   python -m recjax.main --config=configs/recbole.py:cpu --config.data.raw_dir=FOLDER --config.data.category=C --config.data.name=NAME
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none.

FOLDER holds C.inter and C.item; NAME names the prepared folder.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.start('recbole', 'recbole', category='ml-100k')
  config.data.k_core = 5
  config.sids.codes = (256, 256, 256)
  return common.vary(common.flat(config, variant), variant)
