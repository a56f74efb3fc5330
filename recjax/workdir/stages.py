"""The stages of a run, each with its own mixture, number of steps, schedule and parameter groups.

Every stage is a separate training, which starts from the last parameters of the previous stage. The folder of
the last stage is the workdir; the folder of any other stage is `stages/<name>` in it. So every stage has its own
position in the stream, checkpoints and metrics, and a killed run resumes in the stage that was running.
"""

import dataclasses
from typing import NamedTuple

from etils import epath

from recjax import config as config_lib

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
    changes = {
      field: getattr(stage, field)
      for field in ('learning_rate', 'schedule', 'warmup_steps')
      if getattr(stage, field) is not None
    }
    groups = stage.groups | {k: g for k, g in config.optim.groups.items() if k not in stage.groups}
    checkpoint = config.checkpoint
    if stages:
      checkpoint = dataclasses.replace(
        checkpoint, init_from=str(stages[-1].folder), init_from_last=True
      )
    stage_config = dataclasses.replace(
      config,
      num_train_steps=stage.num_train_steps,
      num_epochs=stage.num_epochs,
      mixture={k: config.mixture[k] for k in stage.mixture or config.mixture},
      optim=dataclasses.replace(config.optim, groups=groups, **changes),
      checkpoint=checkpoint,
      stages={},
    )
    is_last = len(stages) == len(config.stages) - 1
    folder = workdir if is_last else workdir / FOLDER / name
    stages.append(PlannedStage(name, stage_config, folder))
  return stages
