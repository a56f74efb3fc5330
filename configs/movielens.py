"""MovieLens with ratings, leave-one-out, without a k-core filter, as in the published statistics.

Command:   python -m recjax.main --config=configs/movielens.py:cpu --config.data.raw_dir=FOLDER
           python -m recjax.main --config=configs/movielens.py:1m-cpu --config.data.raw_dir=FOLDER
           python -m recjax.main --config=configs/movielens.py:knowledge --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with cpu
Figures:   results/movielens_knowledge.json

The variant is a data set (100k, 1m, 20m, 25m, 32m), a size (cpu or a published one), or both, as in 1m-cpu;
without a data set it is 100k. The size `knowledge` is a small model for two cores that also learns ranking and rating,
which are evaluated. `--config.data.download=True` downloads it from GroupLens; the README in the archive holds the terms
of use.
"""

from configs import common
from recjax.config import component, evaluator

SETS = ('100k', '1m', '20m', '25m', '32m')
KNOWLEDGE = 'knowledge'


def get_config(variant: str = ''):
  name, size = common.parts(variant, SETS, (*common.VARIANTS, KNOWLEDGE))
  config = common.start('movielens', f'ml-{name}', category=f'ml-{name}')
  config.data.k_core = 0
  config.sids.codes = (256, 256, 256)
  common.flat(config, size)
  if size == KNOWLEDGE:
    return _knowledge(config)
  return common.vary(config, size)


def _knowledge(config):
  """Adds ranking and rating with the auxiliary tasks of Cao et al. (arXiv 2404.00245), for 20 minutes on two cores."""
  config.sids.codes = (64, 64)  # two tokens an item
  config.sids.collisions = 'sinkhorn'
  config.model.depth = config.model.scan_unroll = 2
  config.model.width = 64
  config.model.ff_width = 256
  config.model.head_width = 16
  config.model.dropout = 0.1
  config.packing.rows = config.batch_size = 32
  config.num_train_steps = 2400
  config.optim.warmup_steps = 60
  config.eval_every_steps = 300
  config.mixture.next_item.prompts = ()  # the task's own wordings
  config.mixture.next_item.weight = 0.2
  config.mixture.rating = component('rating', weight=0.5, max_items=12)
  config.mixture.ranking = component('ranking', weight=0.2, max_items=12)
  config.mixture.bpr = component('bpr', weight=0.05, max_items=12)
  config.mixture.mim = component('mim', weight=0.05, max_items=12)
  config.evaluators.rating = evaluator('rating')
  config.evaluators.ranking = evaluator('ranking', answer=True)
  config.evaluators.ranking_uniform = evaluator('ranking', negatives='uniform')
  config.eval.choose_by = 'rating.rmse'
  config.eval.eval_users = 500
  return config
