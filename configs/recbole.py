"""Any data set of RecBole's atomic files, leave-one-out; ml-100k unless it is told otherwise.

Command:   python -m recjax.main --config=configs/recbole.py:cpu --config.data.raw_dir=FOLDER --config.data.category=C --config.data.name=NAME
Hardware:  2 cores, or one accelerator without :cpu
Figure:    none yet.

FOLDER holds C.inter and C.item; NAME names the prepared folder.
"""

from configs import common


def get_config(variant: str = ''):
  return common.experiment('recbole', 'recbole', variant, category='ml-100k')
