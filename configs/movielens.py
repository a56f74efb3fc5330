"""MovieLens with ratings, leave-one-out; every movie and user counts, as in the published statistics.

Command:   python -m recjax.main --config=configs/movielens.py:cpu --config.data.raw_dir=FOLDER
           python -m recjax.main --config=configs/movielens.py:1m-cpu --config.data.raw_dir=FOLDER
Hardware:  2 cores, or one accelerator without cpu
Figure:    none yet.

The variant is a data set (100k, 1m, 20m, 25m, 32m), a size (cpu or a published one), or both, as in 1m-cpu;
without a data set it is 100k. `--config.data.download=True` fetches it from GroupLens, whose README in the
archive holds the terms of use.
"""

from configs import common

SETS = ('100k', '1m', '20m', '25m', '32m')


def get_config(variant: str = ''):
  both = tuple(f'{name}-{size}' for name in SETS for size in common.VARIANTS if size)
  common.check_variant(variant, (*common.VARIANTS, *SETS, *both))
  name, _, size = variant.partition('-')
  if name not in SETS:
    name, size = SETS[0], variant
  config = common.experiment('movielens', f'ml-{name}', size, category=f'ml-{name}')
  config.data.k_core = 0
  return config
