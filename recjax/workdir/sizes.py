"""Sizes from the data: numbers for the values of a config that are left to the data (None, or empty `sids.codes`).

A run does this once, after the data are prepared; all later code and config.json see numbers. A workdir keeps the
numbers of its first start, so that a resume continues the same run, even if the data or these rules have changed.

| field | number |
|---|---|
| `sids.codes` | `recjax.sids.code_sizes`, already chosen by the preparation |
| `sids.encoder` | the encoder that the preparation selected (`data_prep.encoders.stage`) |
| `packing.row_length` | room for the longest example, and for three of the mean length if they fit in twice the longest; a multiple of 32, at most 1024 |
| `packing.decoder_row_length` | the targets of the inputs that fill a row, and a quarter more; a multiple of 8 |
| `batch_size` | the square root of the rows of an epoch, as a power of two, at most about 8,192 tokens |
| `packing.rows` | the largest power of two up to 64 that divides the rows of a host |
| `num_train_steps` | `num_epochs`; without it 40 epochs, at most 12 million tokens: a quarter of an hour on two cores |
| `optim.warmup_steps` | a tenth of the steps |
| `eval_every_steps`, `checkpoint_every_steps` | a twentieth of the steps |
| `log_every_steps` | `eval_every_steps`, at most 50 |
| `eval.eval_users` | half of the tokens that training computes between two evaluations, from 100 to 2000 rows |
| `eval.batch_size` | the power of two that holds the sample, at most 128 |

An epoch is the number of examples in which every unit of the next_item component occurs once
(`recjax.data.mixture.Mixture.examples_in`). Every stage of a run has its own epochs.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data import loader, prompt_stream
from recjax.data import mixture as mixture_lib
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.mixture import Mixture
from recjax.data.packing import Plan
from recjax.data.plan import longest_answers
from recjax.sharding import mesh as mesh_lib
from recjax.sids import code_sizes
from recjax.workdir import identity
from recjax.workdir import stages as stages_lib

EPOCHS, MOST_TOKENS = 40, 12_000_000
EVALUATIONS = 20  # of a run
MOST_ROW_LENGTH, STEP_TOKENS, MOST_ROWS = 1024, 8192, 64
LEAST_SAMPLE, MOST_SAMPLE, EVAL_BATCH = 100, 2000, 128
_BACKWARD = 3  # a training step computes three times as much for a token as the search

_FIELDS = ('batch_size', 'log_every_steps', 'eval_every_steps', 'checkpoint_every_steps')
_INTERVALS = ('eval_every_steps', 'checkpoint_every_steps')  # a stage has its own
_NESTED = {
  'packing': ('row_length', 'decoder_row_length', 'rows'),
  'optim': ('warmup_steps',),
  'eval': ('batch_size', 'eval_users'),
}


def resolved(
  config: Config,
  dataset: Dataset,
  workdir: epath.Path | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Config:
  """Returns the config with numbers in place of the values that are left to the data.

  Args:
    config: the config of a run.
    dataset: its prepared data.
    workdir: folder of the run, whose config.json has precedence over the data. None: none.
    mesh: the devices; a batch is a multiple of their shards. None: one device.

  Raises:
    ValueError: the mixture does not fit the data.
  """
  config = _with_encoder(config, dataset)
  if not config.sids.codes:
    codes = tuple(dataset.manifest('sids')['params']['codes'])
    config = dataclasses.replace(config, sids=dataclasses.replace(config.sids, codes=codes))
  before = None if workdir is None else identity.config_of(workdir)
  if before is not None:
    config = _as_before(config, before)
  if not any(_open(config)):
    return config
  corpus = Corpus.of(dataset, models.family(config.model))
  plan = stages_lib.plan(config, epath.Path())
  mixtures = [_mixture(stage, corpus) for stage in plan]
  supervised = [m for stage, m in zip(plan, mixtures, strict=True) if stage.grpo is None]
  config = _with_batch(config, supervised or mixtures, mesh)
  plan = stages_lib.plan(config, epath.Path())  # with the sizes of every stage
  streams = [_stream(*pair) for pair in zip(plan, mixtures, strict=True)]
  return _with_steps(config, streams, dataset)


def _with_encoder(config: Config, dataset: Dataset) -> Config:
  """Returns the config with the encoder that the preparation selected; without text vectors it stays 'auto'."""
  manifest = dataset.manifest('text_embeddings')
  if config.sids.encoder != 'auto' or manifest is None:
    return config
  is_tfidf = manifest['params']['kind'] == 'tfidf'
  sids = dataclasses.replace(config.sids, encoder='tfidf' if is_tfidf else 'minilm')
  return dataclasses.replace(config, sids=sids)


def without_data(config: Config, num_items: int) -> Config:
  """Returns the config with the numbers of large data, for estimates without data."""
  length = config.packing.row_length or 128
  rows = config.packing.rows or math.gcd(config.batch_size or MOST_ROWS, MOST_ROWS)
  numbers = {
    'batch_size': max(STEP_TOKENS // length // rows, 1) * rows,
    'packing': {'row_length': length, 'decoder_row_length': length // 4, 'rows': rows},
    'optim': {'warmup_steps': 0},
    'eval': {'batch_size': EVAL_BATCH, 'eval_users': MOST_SAMPLE},
    'sids': {'codes': code_sizes.of_level(config.sids, num_items)},
    **dict.fromkeys(_FIELDS[1:], MOST_TOKENS // STEP_TOKENS // EVALUATIONS),
  }
  stages = {name: _with_length(stage) for name, stage in config.stages.items()}
  return _filled(dataclasses.replace(_with_length(config), stages=stages), numbers)


def _with_length(training: Any) -> Any:
  """Returns a config or a stage; a number of steps that is left to the data is the largest."""
  steps = training.num_train_steps or MOST_TOKENS // STEP_TOKENS
  return dataclasses.replace(training, num_train_steps=steps, num_epochs=None)


def _open(config: Config) -> Iterator[bool]:
  """Yields for each field whether it is left to the data."""
  sections = [(config, (*_FIELDS, 'num_train_steps'))]
  sections += [(getattr(config, section), names) for section, names in _NESTED.items()]
  sections += [(stage, ('num_train_steps',)) for stage in config.stages.values()]
  for section, names in sections:
    yield from (getattr(section, name) is None for name in names)


def _as_before(config: Config, before: Config) -> Config:
  """Returns the config with the numbers of a workdir; `num_epochs` has precedence over its steps."""
  stages = {
    name: _stage_as_before(config, stage, before.stages[name]) if name in before.stages else stage
    for name, stage in config.stages.items()
  }
  steps = None if config.num_epochs else before.num_train_steps
  numbers = {name: getattr(before, name) for name in _FIELDS} | {
    section: {name: getattr(getattr(before, section), name) for name in names}
    for section, names in _NESTED.items()
  }
  # A number of steps that is set may be less than the earlier warm-up.
  limit = config.num_train_steps if not config.stages else None
  warmup = numbers['optim']['warmup_steps']
  if None not in (limit, warmup):
    numbers['optim'] = {'warmup_steps': min(warmup, limit)}
  return _filled(dataclasses.replace(config, stages=stages), numbers | {'num_train_steps': steps})


def _stage_as_before(config: Config, stage: Any, before: Any) -> Any:
  changes = {}
  if stage.num_train_steps is None and stage.num_epochs is None:
    changes['num_train_steps'] = before.num_train_steps
  left = [name for name in _INTERVALS if getattr(config, name) is None]
  for name in ('warmup_steps', *left):
    if getattr(stage, name) is None:
      changes[name] = getattr(before, name)
  return dataclasses.replace(stage, **changes)


def _filled(config: Config, numbers: Mapping[str, Any]) -> Config:
  """Returns the config with numbers for the fields that are None (or empty codes); the others keep their values."""
  changes = {}
  for name, value in numbers.items():
    now = getattr(config, name)
    if isinstance(value, Mapping):
      open_fields = {key: v for key, v in value.items() if getattr(now, key) in (None, ())}
      changes[name] = dataclasses.replace(now, **open_fields)
    elif now is None:
      changes[name] = value
  return dataclasses.replace(config, **changes)


# --- rows and batches


def _with_batch(
  config: Config, mixtures: Sequence[Mixture], mesh: jax.sharding.Mesh | None
) -> Config:
  """Returns the config with the sizes of rows and batches."""
  samples = [sample for mixture in mixtures for sample in _lengths(mixture)]
  config = _filled(config, {'packing': _row_lengths(samples)})
  packing, mean = config.packing, np.mean([full.mean(axis=0)[0] for full, _ in samples])
  hosts = 1 if mesh is None else mesh_lib.host_part(mesh)[1]
  shards = 1 if mesh is None else mesh_lib.batch_shards(mesh)
  batch = config.batch_size
  if batch is None:
    examples = max(mixture.examples_in(1.0) for mixture in mixtures)
    rows = examples * mean / packing.row_length
    most = max(STEP_TOKENS // packing.row_length, 1)
    batch = 2 ** round(math.log2(max(min(math.sqrt(rows), most), 1)))
    unit = math.lcm(shards * config.grad_accumulation, hosts * (packing.rows or 1))
    batch = -(-batch // unit) * unit
  rows = math.gcd(batch // hosts or 1, MOST_ROWS)
  return _filled(config, {'batch_size': batch, 'packing': {'rows': rows}})


def _lengths(mixture: Mixture) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields for each interval the positions `[n, sides]` of a sample of examples, and the least of the longest."""
  corpus = mixture.corpus
  space = corpus.dataset.vocabulary.space
  plan = Plan(1, 1, 1, int(corpus.is_encoder_decoder), space=space)
  answers = longest_answers(mixture, plan).values()
  for sample in mixture.survey:
    examples = [example for _, example in sample]
    full = np.array([plan.lengths(example) for example in examples])
    least = full.copy()
    least[:, 0] -= [sum(example.spare) for example in examples]
    least = least.max(axis=0)
    # A row has room for an equal number of tokens of every level.
    bare = [example.without_spare() for example in examples]
    least[-1] = max(least[-1], plan.level_counts(bare).max(initial=0) * space.num_levels, *answers)
    yield full, least


def _row_lengths(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, int]:
  """Returns the sizes of rows for examples of these lengths."""
  longest = np.max([full.max(axis=0) for full, _ in samples], axis=0)
  least = np.max([least for _, least in samples], axis=0)
  mean = np.mean([full.mean(axis=0) for full, _ in samples], axis=0)
  wanted = max(longest[0], min(3 * mean[0], 2 * longest[0]))
  length = _multiple(max(min(wanted, MOST_ROW_LENGTH), least[0]), 32)
  sizes = {'row_length': length, 'decoder_row_length': length // 4}
  if len(mean) > 1:
    inputs = min(mean[0], length)
    sizes['decoder_row_length'] = _multiple(
      max(1.25 * mean[1] * length / inputs, longest[1], least[1]), 8
    )
  return sizes


def _multiple(value: float, of: int) -> int:
  return -(-math.ceil(value) // of) * of


# --- steps


def _mixture(stage: stages_lib.PlannedStage, corpus: Corpus) -> Mixture:
  config = stage.config
  if stage.grpo is None:
    return mixture_lib.build(config.active_mixture, config.mixing, corpus, config.seed)
  return prompt_stream.mixture(config.mixture, config.mixing, corpus, config.seed)


def _stream(stage: stages_lib.PlannedStage, mixture: Mixture) -> loader.Stream:
  config, start_id = stage.config, models.start_id(stage.config.model)
  if stage.grpo is None:
    return loader.make_stream(mixture, config.packing, config.batch_size, start_id)
  row_length = config.packing.row_length
  return prompt_stream.make_stream(mixture, row_length, config.batch_size, False, start_id)


def _with_steps(config: Config, streams: Sequence[loader.Stream], dataset: Dataset) -> Config:
  """Returns the config with the numbers of steps and the fields that depend on them."""
  if config.stages:
    stages = {
      name: _with_own_steps(config, stage, stream)
      for (name, stage), stream in zip(config.stages.items(), streams, strict=True)
    }
    steps = [stage.num_train_steps for stage in stages.values()]
    config = dataclasses.replace(config, stages=stages)
    run = config.num_train_steps or steps[-1]  # of no effect: every stage has its own
  else:
    run = config.num_train_steps or _steps(config.num_epochs, streams[0])
    steps = [run]
  config = dataclasses.replace(config, num_train_steps=run, num_epochs=None)
  every = config.eval_every_steps or -(-min(steps) // EVALUATIONS)
  numbers = {
    'optim': {'warmup_steps': min(steps) // 10},
    'eval_every_steps': every,
    'checkpoint_every_steps': every,
    'log_every_steps': min(every, 50),
  }
  return _with_sample(_filled(config, numbers), dataset)


def _with_own_steps(config: Config, stage: Any, stream: loader.Stream) -> Any:
  steps = stage.num_train_steps or _steps(stage.num_epochs, stream)
  changes = {'num_train_steps': steps, 'num_epochs': None}
  if config.optim.warmup_steps is None and stage.warmup_steps is None:
    changes['warmup_steps'] = steps // 10
  for name in _INTERVALS:
    if getattr(config, name) is None and getattr(stage, name) is None:
      changes[name] = -(-steps // EVALUATIONS)
  return dataclasses.replace(stage, **changes)


def _steps(epochs: float | None, stream: loader.Stream) -> int:
  """Returns the steps of a number of epochs; None: EPOCHS, but at most MOST_TOKENS."""
  wanted = -(-stream.mixture.examples_in(epochs or EPOCHS) // stream.examples_per_batch)
  plan = stream.plan
  most = max(MOST_TOKENS // (stream.groups * plan.rows * plan.row_length), 1)
  return wanted if epochs else min(wanted, most)


def _with_sample(config: Config, dataset: Dataset) -> Config:
  """Returns the config with the sample of evaluations during training."""
  rows = dataset.num_rows('validation')
  levels = dataset.vocabulary.space.num_levels
  histories, _ = dataset.histories_and_targets('validation')
  shown = config_lib.next_item_component(config).max_items - 1
  prompt = float(np.minimum(histories.lengths, shown).mean()) * levels if rows else 0.0
  a_row = max(prompt + config.eval.beams * (levels - 1), 1)
  tokens = config.eval_every_steps * config.batch_size * config.packing.row_length * _BACKWARD
  sample = int(min(max(tokens / 2 / a_row, LEAST_SAMPLE), MOST_SAMPLE))
  sample = config.eval.eval_users or sample
  batch = min(2 ** (max(min(sample, rows), 1) - 1).bit_length(), EVAL_BATCH)
  return _filled(config, {'eval': {'eval_users': sample, 'batch_size': batch}})
