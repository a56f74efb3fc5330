"""What the experiments on Amazon data share."""

import ml_collections

from recjax.config import defaults
from recjax.models.sizes import SIZES as DECODER_SIZES
from recjax.models.t5_config import SIZES as T5_SIZES


def amazon2014(name: str, category: str, variant: str) -> ml_collections.ConfigDict:
  """One of McAuley's 5-core data sets, with a decoder of width 128 and 4 layers from scratch.

  Args:
    name: of the folders.
    category: as in the official file names.
    variant: '' for one accelerator; 'cpu' for two cores; or a published size of `recjax.models`
      (gemma3_270m, flan_t5_base, …), from scratch or from `--config.model.pretrained=FOLDER`.
  """
  check_variant(variant, ('', 'cpu', *DECODER_SIZES, *T5_SIZES))
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
  if variant == 'cpu':
    # Sizes for two cores: a batch is one packing group.
    config.batch_size = 64
    config.num_train_steps = 2000
    config.model.scan_unroll = config.model.depth  # XLA:CPU is a fifth faster without the loop
  elif variant:
    _published(config, variant)
  return config


def _published(config: ml_collections.ConfigDict, size: str) -> None:
  config.model.size = size
  config.model.family = 't5' if size in T5_SIZES else 'gemma'
  config.model.dropout = 0.1
  config.model.compute_dtype = 'bfloat16'
  config.model.remat = 'full'
  config.mixture.next_item.prompt = 'The customer bought, in this order:'
  config.packing.row_length = 512
  config.packing.decoder_row_length = 128
  config.packing.rows = 32
  config.batch_size = 128
  config.optim.learning_rate = 1e-3 if size in T5_SIZES else 1e-4


def check_variant(variant: str, known: tuple[str, ...]) -> None:
  """Raises a ValueError for a variant (`--config=file.py:variant`) that the file does not know."""
  if variant not in known:
    names = ', '.join(repr(name) for name in known)
    raise ValueError(f'the variant of this config must be one of {names}; got {variant!r}')
