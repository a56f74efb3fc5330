"""Shared parts of the configs: the defaults of a data set, the variants, and the check of a variant's name."""

from collections.abc import Iterable

import ml_collections

from data_prep import sources
from recjax.config import component, defaults
from recjax.data.tasks import TASKS
from recjax.models import families
from recjax.schema.names import question

SMALL = ('cpu', 'tasks')  # variants for two cores
VARIANTS = ('', *SMALL, *families.sizes())
NEXT_ITEM = 'next_item'  # ends a variant whose mixture holds that task alone
RECIPES = {'cpu': 16.0, 'gpu': 24.0}  # variants with the item decoder, and their epochs
FLAT = {'flat': '', 'flat-cpu': 'cpu'}  # variants with a flattened decoder, as variants of `vary`

# Shares of the examples that the default mixture gives to the tasks beside next_item; docs/papers.md has candidates.
SHARES = {'mim': 0.1, 'bpr': 0.1, 'collaborative_neighbours': 0.05, 'semantic_neighbours': 0.05}
# The same for the item decoder, with histories that fit in its rows.
ITEM_SHARES = dict.fromkeys(SHARES, 0.05)
_ITEM_FIELDS = {'mim': {'max_items': 16}, 'bpr': {'max_items': 19}}
# Short wordings for models from scratch, which know no language; next_item has none.
_WORDINGS = {
  'mim': 'Missing: {history}',
  'bpr': '{history} Preferred: {candidates}',
  'collaborative_neighbours': 'With {item}:',
  'semantic_neighbours': 'Like {item}:',
}


def start(source: str, name: str, category: str = '') -> ml_collections.ConfigDict:
  """Returns the default config of a data set, with the prompt and the intervals of all experiments."""
  sources.get(source)  # checks the name; the import of `sources` adds its options to the config
  config = defaults(source=source, name=name)
  config.data.category = category
  config.mixture.next_item.prompts = ('{history}',)  # a single task needs no words
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 250
  return config


def start_minionerec(name: str, category: str) -> ml_collections.ConfigDict:
  """Returns the default config of a data set of MiniOneRec: its split, history of ten items, SIDs and keywords."""
  config = start('minionerec', name, category)
  config.data.k_core = 0
  config.data.split = 'source'
  config.data.catalogue = 'all'
  config.data.max_history = 10
  config.keywords.teacher = 'import'
  config.keywords.file = f'semantics/{category}.description_keywords.json'
  config.sids.quantizer = 'import'
  config.sids.table = f'index/{category}.index.json'
  config.sids.codes = (256, 256, 256)
  config.sids.collisions = 'keep'
  config.mixture.next_item.max_items = 11  # ten of history and the target
  config.eval.exclude_seen = False
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


def amazon2014(name: str, category: str, variant: str, encoder: str) -> ml_collections.ConfigDict:
  """Returns the config of a data set of Amazon (2014, 5-core).

  Args:
    name: name of the data set.
    category: the part of the files' names that identifies it.
    variant: 'cpu' (two cores) and 'gpu': the item decoder with an item head and counts, the best that was found.
      'flat-cpu' and 'flat': a decoder that reads the codes of an item one by one. Of both, recommendation, MIM, BPR and
      relation samples are interleaved. 'tasks' and a published size: see `vary`. Joined by '-' to next_item, as in
      'cpu-next_item': that task alone.
    encoder: `sids.encoder` of the flattened decoders and of the published sizes.

  Raises:
    ValueError: the variant is unknown.
  """
  sizes = (*RECIPES, *FLAT, *families.sizes())
  check_variant(variant, (*sizes, 'tasks', *(f'{size}-{NEXT_ITEM}' for size in sizes)))
  size = variant.removesuffix(f'-{NEXT_ITEM}')
  config = start('amazon2014', name, category)
  config.data.k_core = 5
  config.sids.codes = (256, 256, 256)
  if size in RECIPES:
    config = item_decoder(config, num_epochs=RECIPES[size])
  else:
    config.sids.encoder = encoder
    size_of_vary = FLAT.get(size, size)
    config = vary(flat(config, size_of_vary), size_of_vary)
  if variant.endswith(NEXT_ITEM) or variant == 'tasks':
    return config
  shares, fields, wordings = SHARES, {}, {} if config.model.size else _WORDINGS
  if size in RECIPES:
    shares, fields, wordings = ITEM_SHARES, _ITEM_FIELDS, _places(ITEM_SHARES)
  for task, share in shares.items():
    prompts = (wordings[task],) if wordings else ()  # (): the task's own wordings
    config.mixture[task] = component(task, weight=share, prompts=prompts, **fields.get(task, {}))
  config.mixture.next_item.weight = 1 - sum(shares.values())
  return config


def item_decoder(config: ml_collections.ConfigDict, num_epochs: float) -> ml_collections.ConfigDict:
  """Returns the config with the item decoder: item head, counts and texts as scores, histories of 20 items."""
  config.data.text_pieces = 512  # no text is read; few pieces are learned fast
  config.mixture.next_item.max_items = 21
  config.mixture.next_item.item_dropout = 0.1
  config.model.family = 'item_decoder'
  config.model.item_rows = True
  config.model.item_head = True
  config.loss.item_head = 3.0  # the best of results/item_trials.json by validation users
  config.model.depth = 2
  config.model.width = 128
  config.model.ff_width = 256
  config.model.heads = 4
  config.model.dropout = 0.4
  config.model.scan_unroll = 2
  config.packing.row_length = 84  # a window of 21 items of 4 codes
  config.packing.rows = 32
  config.batch_size = 96  # about 256 windows
  config.num_train_steps = None
  config.num_epochs = num_epochs
  config.optim.learning_rate = 2e-3
  config.optim.weight_decay = 0.05
  config.optim.warmup_steps = None
  config.eval.memory.counts = 'transitions'
  config.eval.text.vectors = 'encoder'
  config.log_every_steps = None
  config.eval_every_steps = None
  config.checkpoint_every_steps = None
  return config


def _places(tasks: Iterable[str]) -> dict[str, str]:
  """Returns wordings without words: the places of each task alone."""
  return {task: ''.join(f'{{{place}}}' for place in TASKS[task].places) for task in tasks}


def flat(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
  """Returns the config with a small decoder that reads codes one by one, for the hardware of a variant of `vary`."""
  small = variant in SMALL
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return config


def parts(
  variant: str, sets: tuple[str, ...], sizes: tuple[str, ...], alone: tuple[str, ...] = ()
) -> tuple[str, str]:
  """Returns the data set and the size in a variant such as 'toys-cpu'; without a data set the first one.

  Args:
    variant: a data set, a size, or both.
    sets: the data sets.
    sizes: the sizes; '' is the size of a data set alone.
    alone: further sizes, which need no data set.

  Raises:
    ValueError: the variant is unknown.
  """
  both = tuple(f'{name}-{size}' for name in sets for size in sizes if size)
  check_variant(variant, (*sizes, *alone, *sets, *both))
  name, _, size = variant.partition('-')
  return (name, size) if name in sets else (sets[0], variant)


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


def published(config: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
  """Returns the config with the model of a published size, in bfloat16, and the tasks' own wordings."""
  config.model.size = size
  config.model.family = families.by_size(size).name
  config.model.compute_dtype = 'bfloat16'
  config.mixture.next_item.prompts = ()
  return config


def small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with a model that two cores train from scratch, for tasks with words."""
  config.model.depth = config.model.scan_unroll = 2
  config.model.width = 128
  config.model.ff_width = 512
  config.model.dropout = 0.1
  config.optim.weight_decay = 0.1
  config.mixture.next_item.prompts = ()
  return config


def start_tiny() -> ml_collections.ConfigDict:
  """Returns the config of a small synthetic world with ratings and descriptions: it needs no files."""
  config = start('synthetic', 'papers-tiny')
  config.data.update(synthetic_items=120, synthetic_users=240, synthetic_reviews=True)
  config.data.update(k_core=0, item_text='synthetic', text_pieces=512)
  return config


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with a model, steps and an evaluation that take seconds, for `start_tiny`."""
  config.sids.codes = (16, 16)
  config.sids.update(encoder='tfidf', tfidf_width=16, cooccurrence_width=8)
  config.model.update(depth=1, width=16, ff_width=32, heads=2, kv_heads=2, head_width=8)
  config.packing.rows = config.batch_size = 8
  config.num_train_steps = 4
  config.optim.warmup_steps = 1
  config.mixture.next_item.max_items = 4
  config.log_every_steps = 1
  config.eval_every_steps = config.checkpoint_every_steps = 2
  config.eval.update(beams=20, batch_size=256, eval_users=240)  # one batch, so one compilation
  return config


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
