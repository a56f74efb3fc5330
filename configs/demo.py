"""The synthetic world with a known optimum: no download, no weights.

Command:   make demo    (python -m recjax.main --config=configs/demo.py)
Hardware:  2 cores, 24 GiB, no accelerator
Time and figures: README.md, "Install and try"

The variant `tiny` (120 items, 300 users, one layer, six steps) runs every part in seconds. The variant `grpo` adds a
stage of reinforcement learning, a minute or two (docs/grpo.md); `tiny_grpo` is both.
"""

from configs import common
from recjax.config import defaults, ordered, stage


def get_config(variant: str = ''):
  common.check_variant(variant, ('', 'tiny', 'grpo', 'tiny_grpo'))
  config = defaults(source='synthetic', name='demo')
  config.data.k_core = 0
  config.data.item_text = 'synthetic'
  config.sids.encoder = 'tfidf'
  config.sids.source = 'text'  # themes and styles decide what follows, and the texts name them
  config.sids.codes = (64, 64, 64)
  config.sids.tfidf_width = 64
  config.mixture.next_item.prompts = ('{history}',)
  config.model.depth = 2
  config.model.width = 64
  config.model.ff_width = 256
  config.model.heads = 2
  config.model.kv_heads = 2
  config.model.dropout = 0.1
  config.optim.learning_rate = 4e-3
  config.optim.warmup_steps = 50
  config.packing.row_length = 128
  config.packing.rows = 32
  config.batch_size = 32
  config.num_train_steps = 800
  config.log_every_steps = 50
  config.eval_every_steps = 400
  config.checkpoint_every_steps = 200
  config.eval.beams = 30
  config.eval.batch_size = 256
  config.eval.eval_users = 1000
  if variant.startswith('tiny'):
    _shrink(config)
  if variant.endswith('grpo'):
    _add_grpo(config)
  return config


def _add_grpo(config):
  is_tiny = config.data.name == 'demo-tiny'
  config.stages = ordered(
    sft=stage(config.num_train_steps),
    grpo=stage(
      6 if is_tiny else 150,
      kind='grpo',
      batch_size=16 if is_tiny else 64,
      learning_rate=3e-4,
      schedule='linear',
      warmup_steps=2 if is_tiny else 5,
      eval_every_steps=3 if is_tiny else 75,
      start_from_best=True,
      grpo={'group': 16, 'kl': 0.01},
    ),
  )


def _shrink(config):
  config.data.name = 'demo-tiny'
  config.data.synthetic_items = 120
  config.data.synthetic_users = 300
  config.data.text_pieces = 512
  config.sids.source = 'both'
  config.sids.codes = (16, 16)
  config.sids.tfidf_width = 16
  config.sids.cooccurrence_width = 8
  config.model.depth = 1
  config.model.width = 16
  config.model.ff_width = 32
  config.model.kv_heads = 1
  config.model.head_width = 8
  config.optim.warmup_steps = 2
  config.mixture.next_item.max_items = 8
  config.packing.row_length = 32
  config.packing.rows = 4
  config.batch_size = 16
  config.num_train_steps = 6
  config.log_every_steps = 1
  config.eval_every_steps = 3
  config.checkpoint_every_steps = 3
  config.eval.beams = 20
  config.eval.batch_size = 64
  config.eval.eval_users = 60
