"""Amazon Beauty (2014, 5-core), leave-one-out.

Command:  python -m recjax.main --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER
"""

from configs import common


def get_config(variant: str = ''):
  return common.amazon2014('beauty', 'Beauty', variant)
