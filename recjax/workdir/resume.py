"""Checks that a checkpoint fits the data, the optimizer and the stream that it is used with."""

from collections.abc import Mapping
import dataclasses
import logging
import operator
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.schema.blend import Blend, Memory, Text
from recjax.schema.optim import Group, Optim
from recjax.workdir import identity, stages
from recjax.workdir.checkpoints import Meta

log = logging.getLogger(__name__)

# Fields of the ranking that gives checkpoints their scores.
_RANKING = (
  'eval.choose_by',
  *(f'eval.memory.{field.name}' for field in dataclasses.fields(Memory)),
  *(f'eval.text.{field.name}' for field in dataclasses.fields(Text)),
  *(f'eval.blend.{field.name}' for field in dataclasses.fields(Blend)),
)


def with_sid_rows(config: Config, workdir: epath.Path) -> Config:
  """Returns a config with adapters with a value for `optim.train_sid_rows`: that of the workdir's run, else True.

  Earlier versions froze SID rows beside adapters. Their runs go on so.
  """
  if config.optim.train_sid_rows is not None or config.model.lora_rank == 0:
    return config
  begun = (identity.config_of(stage.folder) for stage in reversed(stages.plan(config, workdir)))
  old = next((old.optim.train_sid_rows for old in begun if old is not None), True)
  if old is False:
    log.warning(
      'the run in %s began with an earlier version, in which SID rows beside adapters were trained only if a '
      'parameter group names them; it continues so (optim.train_sid_rows=False)',
      workdir,
    )
  return dataclasses.replace(config, optim=dataclasses.replace(config.optim, train_sid_rows=old))


def check_tokens(meta: Meta, dataset: Dataset, folder: epath.Path) -> None:
  """Checks that a checkpoint and a data set have the same code space and the same tokenizer.

  Raises:
    ValueError: they differ.
  """
  remedy = (
    'Set --config.data.prepared_dir to the data that it was trained on, or to data that were prepared '
    'with --config.sids.extend=<that folder>'
  )
  code_space = dataset.sids.code_space_hash
  if meta.code_space != code_space:
    raise ValueError(
      f'the model in {folder} must be used with SIDs of its own code space {meta.code_space}; the '
      f'prepared data in {dataset.folder} have {code_space}. {remedy}'
    )
  if meta.stream['tokenizer'] != dataset.files_digest('tokenizer'):
    raise ValueError(
      f'the model in {folder} must be used with its own tokenizer; the prepared data in '
      f'{dataset.folder} have another. {remedy}'
    )


def check_stream(
  meta: Meta, stream: Mapping[str, str], folder: epath.Path, allow_new_stream: bool
) -> bool:
  """Returns whether a resume continues the stream of the checkpoint.

  Args:
    meta: metadata of the checkpoint.
    stream: fingerprint of this start's stream, by part.
    folder: folder of the checkpoints.
    allow_new_stream: `checkpoint.allow_new_stream`.

  Raises:
    ValueError: the stream changed and `allow_new_stream` is off, or the catalogue of rows of items changed.
  """
  changed = sorted(part for part in stream if stream[part] != meta.stream.get(part))
  if changed and not allow_new_stream:
    raise ValueError(
      f'a resume must continue the stream of examples that the checkpoints in {folder} were trained '
      f'on; changed since: {", ".join(changed)}. Undo the change, give a new --workdir (with '
      '--config.checkpoint.init_from to keep the parameters), or set '
      '--config.checkpoint.allow_new_stream=True to start a new stream'
    )
  model = meta.config.get('model', {})
  if 'sids' in changed and (model.get('item_rows') or model.get('item_head')):
    raise ValueError(
      f'a resume must keep the catalogue of the rows of items in {folder}; the semantic IDs of the data changed. Give a '
      'new --workdir with --config.checkpoint.init_from, which finds the rows by item id'
    )
  return not changed


def check_optimizer(old: Optim, new: Optim, folder: epath.Path) -> None:
  """Checks that the optimizer state of a checkpoint fits the optimizer of this start.

  Args:
    old: the optimizer section that wrote the checkpoint.
    new: the optimizer section of this start.
    folder: folder of the training.

  Raises:
    ValueError: the optimizer, `ema_decay`, `train_sid_rows`, a group or the order of the groups differs.
  """
  for name in ('optimizer', 'ema_decay', 'train_sid_rows', 'groups'):
    was, now = getattr(old, name), getattr(new, name)
    subject = f'optim.{name}'
    if name == 'groups':
      subject, was, now = _difference(was, now)
    if was != now:
      raise ValueError(
        f'a resume must keep {subject} of the training in {folder}: {was!r}; got {now!r}. '
        f'Set --config.{subject.removeprefix("the order of ")}, or give a new --workdir with '
        '--config.checkpoint.init_from'
      )


def check_updates(made: int, step: int, updates: int, stage: str, folder: epath.Path) -> None:
  """Checks that a stage of kind grpo goes on with as many updates a step: its schedule counts them.

  Args:
    made: updates of the parameters so far, as the optimizer counted them.
    step: number of completed steps, at least 1.
    updates: `grpo.updates` of this start.
    stage: name of the stage.
    folder: folder of its checkpoints.

  Raises:
    ValueError: the completed steps had another number of updates.
  """
  if made != step * updates:
    field = f'stages.{stage}.grpo.updates'
    raise ValueError(
      f'a resume must keep {field} of the training in {folder}: {made / step:g}; got {updates}. '
      f'Set --config.{field}={made / step:g}, or give a new --workdir with --config.checkpoint.init_from'
    )


def check_selection(meta: Meta, old: Config, new: Config, folder: epath.Path) -> None:
  """Checks that a resume compares its checkpoints by the metric of those that are evaluated already.

  Args:
    meta: metadata of the checkpoint.
    old: the config that wrote it.
    new: the config of this start.
    folder: folder of the training.

  Raises:
    ValueError: `eval.choose_by`, `eval.memory`, `eval.text` or `eval.blend` differs, and an evaluation was made.
  """
  for path in _RANKING if meta.evaluations else ():
    was, now = (operator.attrgetter(path)(each) for each in (old, new))
    if was != now:
      raise ValueError(
        f'a resume must keep {path} of the training in {folder}, whose checkpoints have scores by {was}; got '
        f'{now}. Set --config.{path}={was}, or give a new --workdir with --config.checkpoint.init_from'
      )


def _difference(old: Mapping[str, Group], new: Mapping[str, Group]) -> tuple[str, Any, Any]:
  """Returns name, old and new value of the first field that differs, or of the order; None: it is absent."""
  was, now = (
    {f'optim.groups.{name}.{field}': value for name, group in groups.items()
     for field, value in dataclasses.asdict(group).items()}
    for groups in (old, new)
  )  # fmt: skip
  for path in {**was, **now}:
    if was.get(path) != now.get(path):
      return path, was.get(path), now.get(path)
  return 'the order of optim.groups', list(old), list(new)
