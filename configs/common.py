"""What the experiments on real data share."""

import ml_collections

from recjax.config import component, defaults
from recjax.data.tasks import TASKS
from recjax.models import families

VARIANTS = ('', 'cpu', 'tasks', *families.sizes())


def experiment(
  source: str, name: str, variant: str, category: str = ''
) -> ml_collections.ConfigDict:
  """A data set with a decoder of width 128 and 4 layers from scratch.

  Args:
    source: a name of `data_prep.sources.SOURCES`.
    name: of the folders.
    variant: '' for one accelerator; 'cpu' for two cores; 'tasks' for two cores and a mixture of all
      tasks that such data allow; or a published size of `recjax.models`
      (gemma3_270m, flan_t5_base, …), from scratch or from `--config.model.pretrained=FOLDER`.
    category: as in the source's file names.
  """
  check_variant(variant, VARIANTS)
  config = defaults(source=source, name=name)
  config.data.category = category
  config.model.dropout = 0.2
  config.mixture.next_item.prompts = ('{history}',)  # one task needs no words
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 256
  config.num_train_steps = 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 250
  if variant in ('cpu', 'tasks'):
    # Sizes for two cores: a batch is one packing group.
    config.batch_size = 64
    config.num_train_steps = 2000
    config.model.scan_unroll = config.model.depth  # XLA:CPU is a fifth faster without the loop
  elif variant:
    _published(config, variant)
  if variant == 'tasks':
    add_tasks(config)
  return config


def add_tasks(config: ml_collections.ConfigDict, share: float = 0.5) -> None:
  """Adds every task that needs no ratings; together they are `share` of the examples."""
  tasks = [
    task for task, kind in TASKS.items() if task != 'next_item' and 'ratings' not in kind.requires
  ]
  for task in tasks:
    config.mixture[task] = component(task, weight=share / len(tasks))
  config.mixture.next_item.weight = 1 - share
  config.packing.row_length = 512
  config.packing.decoder_row_length = 256
  config.packing.rows = 16
  config.batch_size = 16


def _published(config: ml_collections.ConfigDict, size: str) -> None:
  family = families.of_size(size)
  config.model.size = size
  config.model.family = family.name
  config.model.dropout = 0.1
  config.model.compute_dtype = 'bfloat16'
  config.model.remat = 'full'
  config.mixture.next_item.prompts = ()  # the task's own wordings
  config.packing.row_length = 512
  config.packing.decoder_row_length = 128
  config.packing.rows = 32
  config.batch_size = 128
  config.optim.learning_rate = 1e-3 if family.is_encoder_decoder else 1e-4


def check_variant(variant: str, known: tuple[str, ...]) -> None:
  """Raises a ValueError for a variant (`--config=file.py:variant`) that the file does not know."""
  if variant not in known:
    names = ', '.join(repr(name) for name in known)
    raise ValueError(f'the variant of this config must be one of {names}; got {variant!r}')
