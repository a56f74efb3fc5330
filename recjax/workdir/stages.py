"""The stages of a run, each with its own mixture, number of steps, schedule and parameter groups.

Every stage is a separate training, which starts from the last parameters of the previous stage. The folder of
the last stage is the workdir; the folder of any other stage is `stages/<name>` in it. So every stage has its own
position in the stream, checkpoints and metrics, and a killed run resumes in the stage that was running.
"""

import dataclasses
from typing import Any, NamedTuple

from etils import epath

from recjax import config as config_lib
from recjax.schema.optim import Stage

FOLDER = 'stages'


class PlannedStage(NamedTuple):
  """One stage of a run.

  Attributes:
    name: name of the stage; empty in a run without stages.
    config: config of the stage's training.
    folder: folder of the stage's checkpoints and metrics.
  """

  name: str
  config: config_lib.Config
  folder: epath.Path


def plan(config: config_lib.Config, workdir: epath.Path) -> list[PlannedStage]:
  """Returns the stages of a run in order; a run without stages is one stage without a name."""
  if not config.stages:
    return [PlannedStage('', config, workdir)]
  stages = []
  for name, stage in config.stages.items():
    groups = stage.groups | {k: g for k, g in config.optim.groups.items() if k not in stage.groups}
    checkpoint = config.checkpoint
    if stages:
      checkpoint = dataclasses.replace(
        checkpoint, init_from=str(stages[-1].folder), init_from_last=stage.start_from == 'last'
      )
    if stage.sid_rows is not None:
      checkpoint = dataclasses.replace(checkpoint, init_sid_rows=stage.sid_rows)
    stage_config = dataclasses.replace(
      config,
      batch_size=stage.batch_size or config.batch_size,
      num_train_steps=stage.num_train_steps,
      num_epochs=stage.num_epochs,
      mixture={k: config.mixture[k] for k in stage.mixture or config.mixture},
      optim=_with_fields(
        config.optim, stage, 'learning_rate', 'schedule', 'warmup_steps', groups=groups
      ),
      packing=_with_fields(config.packing, stage, 'row_length', 'decoder_row_length'),
      eval=_with_fields(config.eval, stage, 'patience'),
      checkpoint=checkpoint,
      stages={},
    )
    is_last = len(stages) == len(config.stages) - 1
    folder = workdir if is_last else workdir / FOLDER / name
    stages.append(PlannedStage(name, stage_config, folder))
  return stages


def _with_fields(section: Any, stage: Stage, *names: str, **changes: Any) -> Any:
  """Returns a section of the run with the fields that a stage sets."""
  own = {name: getattr(stage, name) for name in names if getattr(stage, name) is not None}
  return dataclasses.replace(section, **own, **changes)
