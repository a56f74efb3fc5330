"""Shared parts of the configs: the defaults of a data set, the variants, and the check of a variant's name."""

import ml_collections

from data_prep import sources
from recjax.config import component, defaults
from recjax.data.tasks import TASKS
from recjax.models import families
from recjax.schema.names import question

SMALL = ('cpu', 'tasks')  # variants for two cores
VARIANTS = ('', *SMALL, *families.sizes())


def experiment(
  source: str, name: str, variant: str = '', category: str = ''
) -> ml_collections.ConfigDict:
  """Returns the config of a small decoder, trained from scratch on a data set of your own.

  Args:
    source: a name of `data_prep.sources.SOURCES`.
    name: name of the data set and of its folders.
    variant: see `vary`.
    category: `data.category`, the part of the source's file names that identifies the data set.
  """
  small = variant in SMALL
  config = start(source, name, category)
  config.model.depth = 4
  config.model.width = 128
  config.model.dropout = 0.2
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return vary(config, variant)


def start(source: str, name: str, category: str = '') -> ml_collections.ConfigDict:
  """Returns the default config of a data set, with the prompt and the intervals of all experiments."""
  sources.get(source)  # checks the name; the import of `sources` adds its options to the config
  config = defaults(source=source, name=name)
  config.data.category = category
  config.mixture.next_item.prompts = ('{history}',)  # a single task needs no words
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 250
  return config


def vary(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
  """Returns the config, changed to a variant.

  Args:
    config: the config of the experiment.
    variant: '': one accelerator. 'cpu': two cores. 'tasks': two cores and a mixture of all tasks without
      ratings. A published size of `recjax.models` (gemma3_270m, flan_t5_base, …): that model, from scratch
      or from `--config.model.pretrained=FOLDER`.

  Raises:
    ValueError: the variant is unknown.
  """
  check_variant(variant, VARIANTS)
  if variant in SMALL:
    config.model.scan_unroll = config.model.depth  # XLA:CPU is 20 % faster without the loop
  elif variant:
    _published(config, variant)
  if variant == 'tasks':
    add_tasks(config)
  return config


def add_tasks(config: ml_collections.ConfigDict, share: float = 0.5) -> None:
  """Adds all tasks that need no ratings; together they get this share of the examples."""
  tasks = [
    task for task, kind in TASKS.items() if task != 'next_item' and 'ratings' not in kind.requires
  ]
  for task in tasks:
    config.mixture[task] = component(task, weight=share / len(tasks))
  config.mixture.next_item.weight = 1 - share
  if config.batch_size is not None:  # else it is chosen from the data, for these tasks too
    config.packing.row_length = 512
    config.packing.decoder_row_length = 256
    config.packing.rows = 16
    config.batch_size = 16


def _published(config: ml_collections.ConfigDict, size: str) -> None:
  family = families.by_size(size)
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
  """Checks the variant of `--config=FILE.py:VARIANT`.

  Raises:
    ValueError: the variant is not in `known`; the message lists all variants and suggests similar ones.
  """
  if variant not in known:
    names = ', '.join(map(repr, known))
    raise ValueError(
      f'the variant of this config must be one of {names}; got {variant!r}{question(variant, known)}'
    )
