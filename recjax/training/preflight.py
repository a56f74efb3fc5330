"""Checks before the first step that concern parameters and the optimizer.

An error ends the program; a warning is one line in the log. `data_preflight` checks the data.
"""

from collections.abc import Sequence
import logging
import math
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.data.dataset import Dataset
from recjax.models.pretrained import hub
from recjax.models.pretrained.ids import FILE as EXPORTED
from recjax.schema.checks import check
from recjax.schema.model import Model
from recjax.schema.run import Checkpoint, Training
from recjax.sids.table import count_distinct
from recjax.training import optim as optim_lib

log = logging.getLogger(__name__)

_REMEDY = (
  'Set --config.{}=random, or train the rows: no group may freeze them, and beside adapters '
  'optim.train_sid_rows must be True'
)


def check_first_rows(
  config: Training, checkpoint: Checkpoint, tables: Sequence[str] = ('sid',)
) -> None:
  """Checks before the data are prepared that a training begins with SID rows that differ, or trains them.

  Args:
    config: the training.
    checkpoint: its checkpoint section.
    tables: names of the tables of the model; before it is known, the one that all models have.

  Raises:
    ValueError: the SID rows are equal and frozen.
  """
  model, kind, field = config.model, checkpoint.init_sid_rows, 'checkpoint.init_sid_rows'
  if kind is None and model.pretrained is not None and checkpoint.init_from is None:
    is_export = (hub.path(model.pretrained) / EXPORTED).exists()
    kind, field = None if is_export else model.sid_rows, 'model.sid_rows'
  if kind != 'mean':
    return
  paths = [('tables', name) for name in tables if optim_lib.is_sid_table(('tables', name))]
  paths += [('lora', 'a')] if model.lora_rank else []
  params = traverse_util.unflatten_dict(dict.fromkeys(paths, 0))
  if frozen := list(optim_lib.split(params, config.optim)[1].get('tables', {})):
    raise ValueError(
      f'SID rows that are frozen must not be equal; {field}=mean makes all of them equal, and '
      f'tables/{frozen[0]} is frozen. {_REMEDY.format(field)}'
    )


def check_rates(config: Training) -> None:
  """Checks that learning rate, weight decay and regularisation leave something to learn.

  Raises:
    ValueError: the weight decay reverses parameters.
  """
  optim, model = config.optim, config.model
  factors = [(1.0, 1.0)]  # on rate and decay, of parameters that no group matches
  factors += [(g.learning_rate, g.weight_decay) for g in optim.groups.values() if not g.frozen]
  rate = optim.learning_rate * max(rate for rate, _ in factors)
  decay = optim.learning_rate * optim.weight_decay * max(r * d for r, d in factors)
  check(
    decay < 1,
    'optim.learning_rate x optim.weight_decay, with the factors of every group, must be less than 1; a step would '
    'reverse parameters',
    decay,
    'optim.weight_decay',
  )
  doubts = {
    f'optim.learning_rate x optim.weight_decay, with the factors of a group, is {decay:g}: a step removes that share '
    'of parameters': decay > 0.05,
    f'with adamw, a learning rate of {rate:g} (with its group factor) changes every parameter by about as much a '
    'step': optim.optimizer == 'adamw' and rate > 0.1,
    f'optim.learning_rate={optim.learning_rate:g} is too small to change float32 parameters': (
      optim.learning_rate < 1e-8
    ),
    f'optim.warmup_steps={optim.warmup_steps} is more than half of num_train_steps={config.num_train_steps}': (
      2 * optim.warmup_steps > config.num_train_steps
    ),
    f'optim.clip_norm={optim.clip_norm:g} leaves gradients that are not much larger than optim.eps': (
      optim.optimizer == 'adamw' and 0 < optim.clip_norm < 1e4 * optim.eps
    ),
    f'model.dropout={model.dropout:g} removes most of the signal': model.dropout > 0.5,
    f'loss.label_smoothing={config.loss.label_smoothing:g} hides most of the targets': (
      config.loss.label_smoothing > 0.5
    ),
  }
  for doubt, holds in doubts.items():
    if holds:
      log.warning('%s', doubt)


def check_positions(model: Model, row_length: int, prompt_length: int) -> None:
  """Checks that a model with learned positions has one for every token of a row and of a prompt.

  Args:
    model: the model section.
    row_length: `packing.row_length`.
    prompt_length: tokens of the longest prompt and of the answer that is appended to it.

  Raises:
    ValueError: it has fewer.
  """
  positions = getattr(models.shape_of(model), 'learned_positions', 0)
  needed = max(row_length, prompt_length)
  check(
    not positions or positions >= needed,
    f'model.max_positions must be at least {needed}: packing.row_length is {row_length}, and the longest prompt of the '
    f'search has {prompt_length} tokens',
    positions,
    f'model.max_positions={needed}',
  )


def warn_of_random(trainings: Sequence[Training], params: Any) -> None:
  """Warns of parameters that keep random initial values, because no training of a run changes them.

  Args:
    trainings: the trainings of a run that begins with random parameters.
    params: the parameters; only paths and shapes are read.
  """
  frozen = [
    traverse_util.flatten_dict(optim_lib.split(params, training.optim)[1]) for training in trainings
  ]
  always = set.intersection(*map(set, frozen))
  size = sum(math.prod(frozen[0][path].shape) for path in always)
  if size:
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    reason = (
      'model.lora_rank trains adapters beside' if trainings[0].model.lora_rank else 'groups freeze'
    )
    log.warning(
      '%s of %s parameters keep their random initial values: %s them, and neither model.pretrained nor '
      'checkpoint.init_from gives other values',
      *(f'{size:,}', f'{total:,}', reason),
    )


def check_rows(params: Any, optim: optim_lib.Optim, dataset: Dataset, seen_V: np.ndarray) -> None:
  """Checks that the initial SID rows, or their training, tell items apart.

  Equal rows of two codes stay equal if they are frozen, or if neither code occurs in training: both then have the
  same gradient.

  Args:
    params: the initial parameters.
    optim: the optimizer section.
    dataset: the prepared data.
    seen_V: bool, whether a SID token occurs in training.

  Raises:
    ValueError: the used rows of a level are all equal and frozen.
  """
  space, codes_IL = dataset.vocabulary.space, dataset.sids.codes_IL
  tokens_IL = codes_IL + np.asarray(space.level_starts)
  trained = optim_lib.split(params, optim)[0].get('tables', {})
  expected = count_distinct(codes_IL)
  for name, table in params['tables'].items():
    if not optim_lib.is_sid_table(('tables', name)):
      continue
    classes = _classes(table)[: space.sid_size]
    if name in trained:
      # Codes that occur in training get rows of their own.
      own = classes.max() + 1 + np.arange(len(classes))
      classes = np.where(seen_V, own, classes)
    else:
      for level, tokens_I in enumerate(tokens_IL.T):
        used = np.unique(tokens_I)
        if len(used) > 1 and len(np.unique(classes[used])) == 1:
          raise ValueError(
            f'SID rows that are frozen must not be equal; the rows of all {len(used)} codes of level '
            f'{level + 1} in tables/{name} are. {_REMEDY.format("model.sid_rows")}'
          )
    lost = expected - count_distinct(classes[tokens_IL])
    if lost:
      log.warning(
        '%d of %d items cannot be told apart from another item by tables/%s: the rows of their codes are equal and '
        '%s. --config.model.sid_rows=random gives them rows of their own',
        *(lost, len(codes_IL), name),
        'no training example holds these codes' if name in trained else 'frozen',
      )


def _classes(table_VD: jax.Array) -> np.ndarray:
  """Returns a number for every row; rows with equal bits have equal numbers (up to 1 in 2^64)."""
  width = table_VD.shape[1]
  factors = np.random.default_rng(0).integers(0, 2**32, (width, 2), np.uint32) | np.uint32(1)

  def hashes(x_VD):
    bits_VD = jax.lax.bitcast_convert_type(x_VD, jnp.uint32)
    return jnp.stack(
      [(bits_VD * f[None, :]).sum(axis=1, dtype=jnp.uint32) for f in factors.T], axis=1
    )

  mesh = getattr(table_VD.sharding, 'mesh', None)
  out = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  hashes_V2 = np.asarray(jax.jit(hashes, out_shardings=out)(table_VD))
  return np.unique(hashes_V2, axis=0, return_inverse=True)[1].reshape(-1)
