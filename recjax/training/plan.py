"""A run of several stages, each with its own mixture, steps, schedule and parameter groups.

Every stage is a training of its own that starts at the last parameters of the one before: the last stage in
the workdir, the others in `stages/<name>` below it. So a stage's position in its stream, its checkpoints
and its metrics are its own, and a run that was killed anywhere, also between two stages, finds what is
finished and continues.
"""

import dataclasses
import logging
from typing import Any

from etils import epath
import jax

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.recommend import Recommender
from recjax.train import train
from recjax.training import optim
from recjax.training import state as state_lib
from recjax.workdir import identity
from recjax.workdir.checkpoints import Checkpoints

log = logging.getLogger(__name__)

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


def train_stages(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  mesh: jax.sharding.Mesh,
) -> tuple[Any, int]:
  """Trains every stage that is not finished; see `recjax.train.train`.

  Returns:
    The parameters of the last stage's best checkpoint, on the mesh, and its step.

  Raises:
    ValueError: before any stage is trained, where a group of one of them names no parameter.
  """
  stages = plan(config, workdir)
  for name, stage_config, _ in stages:
    tx = optim.optimizer(stage_config.optim, stage_config.num_train_steps)
    try:
      state_lib.abstract_state(stage_config, dataset.vocabulary.space, tx, mesh)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}' if name else str(error)) from error
  identity.check_run(config, workdir)
  for name, stage_config, folder in stages[_first_to_do(stages) :]:
    if name:
      log.info('stage %s, %d steps', name, stage_config.num_train_steps)
    run = config if folder == workdir else None
    best = train(stage_config, folder, dataset, recommender, mesh, run)
  return best


def _first_to_do(stages: list[tuple[str, config_lib.Config, epath.Path]]) -> int:
  """The latest stage that has begun: what is before it is finished, and need not be there any more."""
  for n in range(len(stages) - 1, 0, -1):
    with Checkpoints(stages[n][2], read_only=True) as checkpoints:
      if checkpoints.steps:
        return n
  return 0
