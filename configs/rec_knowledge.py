"""Cao et al. (arXiv 2404.00245): recommendation knowledge as auxiliary samples, Amazon 2014, leave-one-out.

Command:   python -m recjax.main --config=configs/rec_knowledge.py:beauty --config.data.raw_dir=FOLDER --config.model.pretrained=FOLDER
             (or sports, toys; beauty-flan_t5_xl for the larger model)
           python -m recjax.main --config=configs/rec_knowledge.py:beauty-cpu --config.data.raw_dir=FOLDER
           python -m recjax.main --config=configs/rec_knowledge.py:tiny        the synthetic world, in seconds
Published: FLAN-T5-Base and FLAN-T5-XL. Retrieval, ranking and rating, with MIM, MLM and BPR as auxiliary samples, all mixed.
           Items are shown by id and title, without user ids; answers of MIM too. Retrieval, ranking and rating are evaluated.
Ours:      everything else: the id is a SID; wordings, shares of the tasks, masked share, MLM's rate and spans, negatives,
           candidates, lengths, optimizer, steps. docs/papers.md compares component by component.
Hardware:  flan_t5_base: v5e:2x2 (`--config.mesh.data=2 --config.mesh.fsdp=2`); flan_t5_xl: v5e:4x4 (`--config.mesh.data=2
           --config.mesh.fsdp=8`); cpu: 2 cores
Cost:      docs/papers.md, "Cost"
Figures:   published: the tables are not known to us. Obtained here: not run.
"""

from configs import common
from recjax.config import component, evaluator

# Name → the part of its files' names.
SETS = {'beauty': 'Beauty', 'sports': 'Sports_and_Outdoors', 'toys': 'Toys_and_Games'}
# Shares of the examples. Not published; ours.
SHARES = {
  'next_item': 0.4,
  'ranking': 0.1,
  'rating': 0.1,
  'mim': 0.15,
  'mlm': 0.15,
  'bpr': 0.1,
}

SIZES = ('', 'cpu', 'flan_t5_base', 'flan_t5_xl')  # '': the paper's


def get_config(variant: str = ''):
  name, size = common.parts(variant, tuple(SETS), SIZES, ('tiny',))
  if size == 'tiny':
    config = common.start_tiny()
  else:
    config = common.start('amazon2014', name, category=SETS[name])
  config.sids.codes = (256, 256, 256)
  _tasks(config)
  _evaluators(config)
  if size == 'cpu':
    return _for_two_cores(config)
  if size == 'tiny':
    return _shrink(config)
  config.packing.row_length, config.packing.decoder_row_length = 1024, 128
  config.packing.rows = 16
  config.batch_size = 64
  config.num_train_steps = 20_000
  config.eval_every_steps = config.checkpoint_every_steps = 2000
  config.model.remat = 'full'
  config.optim.optimizer = 'adafactor'
  config.optim.learning_rate = 1e-3
  config.optim.schedule = 'constant'
  config.optim.weight_decay = 0.0
  config.optim.warmup_steps = 1000
  return common.published(config, size or 'flan_t5_base')


def _tasks(config):
  for task, share in SHARES.items():
    config.mixture[task] = component(task, weight=share)
    config.mixture[task].update(show='both', title_tokens=16)
  config.mixture.mim.learn = 'both'
  config.mixture.mlm.sentinels = 't5'


def _evaluators(config):
  config.evaluators.ranking = evaluator('ranking', answer=True)
  config.evaluators.rating = evaluator('rating')


def _for_two_cores(config):
  """A small T5 from scratch, with short titles and few candidates."""
  config.model.family = 't5'
  common.small(config)
  for task in SHARES:
    config.mixture[task].title_tokens = 8
    config.mixture[task].max_items = 10
  config.mixture.ranking.candidates = 5
  config.evaluators.ranking.rows = config.evaluators.rating.rows = 2000
  config.packing.row_length, config.packing.decoder_row_length = 256, 128
  config.packing.rows = config.batch_size = 32
  config.num_train_steps = 2000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return config


def _shrink(config):
  config.model.family = 't5'
  common.shrink(config)
  for task in SHARES:
    config.mixture[task].title_tokens = 4
    config.mixture[task].max_items = 4
  config.mixture.ranking.candidates = 3
  config.evaluators.ranking.candidates = 10
  config.packing.row_length, config.packing.decoder_row_length = 128, 64
  return config
