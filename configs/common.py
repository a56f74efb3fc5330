"""What the experiments on Amazon data share."""

import ml_collections

from recjax.config import defaults


def amazon2014(name: str, category: str) -> ml_collections.ConfigDict:
  """A decoder of width 128 and 4 layers, from scratch, on one of McAuley's 5-core data sets."""
  config = defaults(source='amazon2014', name=name)
  config.data.category = category
  config.model.dropout = 0.2
  config.mixture.next_item.max_items = 20
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 256
  config.num_train_steps = 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 250
  return config


def two_cores(config: ml_collections.ConfigDict) -> None:
  """Sizes for a machine of two cores: a batch of one packing group."""
  config.batch_size = 64
  config.model.scan_unroll = config.model.depth  # XLA:CPU is a fifth faster without the loop


def check_variant(variant: str, known: tuple[str, ...]) -> None:
  """Raises a ValueError for a variant (`--config=file.py:variant`) that the file does not know."""
  if variant not in known:
    names = ', '.join(repr(name) for name in known)
    raise ValueError(f'the variant of this config must be one of {names}; got {variant!r}')
