"""The stages of a run, each with its own mixture, number of steps, schedule and parameter groups.

Every stage is a separate training, which starts from the last or the best parameters of the previous stage. The folder of
the last stage is the workdir; the folder of any other stage is `stages/<name>` in it. So every stage has its own
position in the stream, checkpoints and metrics, and a killed run resumes in the stage that was running.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
from typing import Any, NamedTuple

from etils import epath

from recjax import config as config_lib
from recjax.schema.checks import called, check
from recjax.schema.grpo import GRPO, Grpo
from recjax.schema.optim import Stage
from recjax.workdir.checkpoints import Checkpoints

FOLDER = 'stages'
# Field of a stage → the field of the run that it replaces, if it has a value.
REPLACED = {
  'learning_rate': 'optim.learning_rate',
  'schedule': 'optim.schedule',
  'warmup_steps': 'optim.warmup_steps',
  'clip_norm': 'optim.clip_norm',
  'batch_size': 'batch_size',
  'row_length': 'packing.row_length',
  'decoder_row_length': 'packing.decoder_row_length',
  'eval_every_steps': 'eval_every_steps',
  'checkpoint_every_steps': 'checkpoint_every_steps',
  'patience': 'eval.patience',
  'sid_rows': 'checkpoint.init_sid_rows',
}


class PlannedStage(NamedTuple):
  """One stage of a run.

  Attributes:
    name: name of the stage; empty in a run without stages.
    config: config of the stage's training.
    folder: folder of the stage's checkpoints and metrics.
    grpo: settings of a stage of kind grpo. None: the stage is supervised.
  """

  name: str
  config: config_lib.Config
  folder: epath.Path
  grpo: Grpo | None = None


def plan(config: config_lib.Config, workdir: epath.Path) -> list[PlannedStage]:
  """Returns the stages of a run in order; a run without stages is one stage without a name.

  Raises:
    ValueError: the name of a stage cannot be that of a folder, or its fields contradict those of the run.
  """
  if not config.stages:
    return [PlannedStage('', config, workdir)]
  stages = []
  for name, stage in config.stages.items():
    check(
      name.strip() != '' and '/' not in name,  # of its folder
      'the name of a stage must not be empty or hold a /',
      name,
      'stages.<another name>.num_train_steps',
    )
    groups = stage.groups | {k: g for k, g in config.optim.groups.items() if k not in stage.groups}
    checkpoint = config.checkpoint
    if stages:
      checkpoint = dataclasses.replace(
        checkpoint,
        init_from=str(stages[-1].folder),
        init_from_last=not stage.start_from_best,
        init_sid_rows=None,  # that of the run is for its start alone
      )
    checkpoint = dataclasses.replace(checkpoint, **_set(stage, 'checkpoint'))
    mixture, grpo = {k: config.mixture[k] for k in stage.mixture or config.mixture}, None
    own = _set(stage, '')
    own['packing'] = dataclasses.replace(config.packing, **_set(stage, 'packing'))
    if stage.kind == GRPO:
      grpo, searched = stage.grpo, config_lib.searched(mixture)
      mixture = {name: mixture[name] for name in dict.fromkeys((searched, *grpo.prompts))}
      own['packing'] = dataclasses.replace(own['packing'], rows=1, examples=1)  # a prompt a row
    # A stage has a batch size of its own, or that of the run.
    field = f'stages.{name}.batch_size' if 'batch_size' in own else 'batch_size'
    warmup = called('optim.warmup_steps', f'stages.{name}.warmup_steps')
    with called('--config.batch_size', f'--config.{field}'), warmup:
      stage_config = dataclasses.replace(
        config,
        num_train_steps=stage.num_train_steps,
        num_epochs=stage.num_epochs,
        mixture=mixture,
        optim=dataclasses.replace(config.optim, groups=groups, **_set(stage, 'optim')),
        eval=dataclasses.replace(config.eval, **_set(stage, 'eval')),
        checkpoint=checkpoint,
        stages={},
        **own,
      )
    is_last = len(stages) == len(config.stages) - 1
    folder = workdir if is_last else workdir / FOLDER / name
    stages.append(PlannedStage(name, stage_config, folder, grpo))
  return stages


def first_unfinished(stages: list[PlannedStage]) -> int:
  """Returns the index of the latest stage with a checkpoint; folders of earlier stages may be deleted."""
  for n in range(len(stages) - 1, 0, -1):
    with Checkpoints(stages[n].folder, read_only=True) as checkpoints:
      if checkpoints.steps:
        return n
  return 0


@contextlib.contextmanager
def named(config: config_lib.Config, name: str) -> Iterator[None]:
  """Makes ValueErrors raised inside the block name a stage, and the fields that it has of its own by their paths in it.

  Args:
    config: config of the run.
    name: name of the stage. Empty: that of a run without stages, whose errors stay.
  """
  if not name:
    yield
    return
  stage, path = config.stages[name], f'stages.{name}'
  own = {REPLACED[field]: field for field in REPLACED if getattr(stage, field) is not None}
  own |= {f'optim.groups.{group}.': f'groups.{group}.' for group in stage.groups}
  try:
    with contextlib.ExitStack() as stack:
      for run, field in own.items():
        # A name without a section may be part of another one.
        prefix = '' if '.' in run else '--config.'
        stack.enter_context(called(f'{prefix}{run}', f'{prefix}{path}.{field}'))
      yield
  except ValueError as error:
    raise ValueError(f'stage {name}: {error}') from error


def _set(stage: Stage, section: str) -> dict[str, Any]:
  """Returns the fields of a section of the run that a stage replaces, by name."""
  found = {}
  for field, path in REPLACED.items():
    place, _, name = path.rpartition('.')
    value = getattr(stage, field)
    if place == section and value is not None:
      found[name] = value
  return found
