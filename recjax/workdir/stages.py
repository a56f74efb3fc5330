"""A run of several stages, each with its own mixture, steps, schedule and parameter groups.

Every stage is a training of its own that starts at the last parameters of the one before: the last stage in
the workdir, the others in `stages/<name>` below it. So a stage's position in its stream, its checkpoints
and its metrics are its own, and a run that was killed anywhere, also between two stages, finds what is
finished and continues.
"""

import dataclasses

from etils import epath

from recjax import config as config_lib

FOLDER = 'stages'


def plan(
  config: config_lib.Config, workdir: epath.Path
) -> list[tuple[str, config_lib.Config, epath.Path]]:
  """Name, config and folder of every stage, in order; a run without stages is one, without a name."""
  if not config.stages:
    return [('', config, workdir)]
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
        checkpoint, init_from=str(stages[-1][2]), init_from_last=True
      )
    stage_config = dataclasses.replace(
      config,
      num_train_steps=stage.num_train_steps,
      mixture={k: config.mixture[k] for k in stage.mixture or config.mixture},
      optim=dataclasses.replace(config.optim, groups=groups, **changes),
      checkpoint=checkpoint,
      stages={},
    )
    is_last = len(stages) == len(config.stages) - 1
    stages.append((name, stage_config, workdir if is_last else workdir / FOLDER / name))
  return stages
