"""The stream and the step of a stage of kind grpo, with what it reads: catalogue, reference and teacher."""

from collections.abc import Callable
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from recjax import models
from recjax.data import prompt_stream
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.prompt_stream import PromptStream, leaves
from recjax.schema.checks import called, check
from recjax.schema.grpo import Grpo
from recjax.schema.run import Training
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim
from recjax.training.grpo.groups import Catalogue
from recjax.training.grpo.step import Fixed, jit_step
from recjax.training.grpo.teacher import Teacher
from recjax.training.state import TrainState
from recjax.workdir.checkpoints import Checkpoints, Meta
from recjax.workdir.stages import PlannedStage

REFERENCE = (
  'reference'  # folder of the parameters that a stage began with, in the folder of the stage
)


def make_stream(stage: PlannedStage, dataset: Dataset) -> PromptStream:
  """Returns the stream of prompts of a stage.

  Raises:
    ValueError: the catalogue has fewer semantic IDs than a group, or the teacher does not fit or was not trained; see
      `Teacher.of`.
  """
  config, settings = stage.config, stage.grpo
  choices = len(leaves(dataset)[0])
  field = f'stages.{stage.name}.grpo.group'
  check(
    settings.group <= choices,
    f'{field} must be at most the {choices} semantic IDs of the catalogue',
    settings.group,
    field,
  )
  with called('stages.<name>', f'stages.{stage.name}'):
    teacher = None if settings.teacher is None else Teacher.of(settings.teacher, dataset)
    if teacher is not None:
      teacher.check_trained()
  corpus = Corpus.of(dataset, models.family(config.model))
  return prompt_stream.make_stream(
    prompt_stream.mixture(config.mixture, config.mixing, corpus, config.seed),
    row_length=config.packing.row_length,
    batch_size=config.batch_size,
    exclude_seen=config.eval.exclude_seen,
    start_id=models.start_id(config.model),
    observer=None if teacher is None else teacher.observer,
  )


def make_step(
  config: Training,
  settings: Grpo,
  dataset: Dataset,
  abstract: TrainState,
  state: TrainState,
  meta: Meta,
  workdir: epath.Path,
  mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the step of a stage, (state, batch) → (state, metrics); see `step.Step`.

  With `grpo.kl` the parameters of step 0 are kept in the folder of the stage. So it resumes although the folder that
  it started from changes or is removed.

  Args:
    config: config of the training.
    settings: the section of the stage.
    dataset: the prepared data.
    abstract: ShapeDtypeStructs of the state, with their shardings.
    state: the state before the next step.
    meta: of a checkpoint of the state.
    workdir: folder of the stage.
    mesh: the devices.

  Raises:
    OSError, ValueError: the teacher does not fit, or the parameters of step 0 were not kept.
  """
  catalogue = jax.device_put(Catalogue.of(dataset), mesh_lib.replicated(mesh))
  reference = scores = params = None
  if settings.kl > 0:
    is_new = int(state.step) == 0
    reference = _keep(config, workdir, state, meta) if is_new else _kept(config, workdir, abstract)
  if settings.teacher is not None:
    teacher = Teacher.of(settings.teacher, dataset)
    scores, params = teacher.scores(dataset), teacher.params(mesh)
  step = jit_step(config, settings, dataset.vocabulary.space, abstract, mesh, scores)
  fixed = Fixed(catalogue, reference, params)
  return lambda state, batch: step(state, fixed, batch)


def _keep(config: Training, workdir: epath.Path, state: TrainState, meta: Meta) -> Any:
  """Saves the trained parameters, and returns a copy: the step donates its own."""
  trained = optim.split(state.params, config.optim)[0]
  with Checkpoints(workdir / REFERENCE) as checkpoints:
    checkpoints.save(0, {'params': trained}, meta, None)
  return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(trained)


def _kept(config: Training, workdir: epath.Path, abstract: TrainState) -> Any:
  """Returns what `_keep` saved, on the mesh.

  Raises:
    ValueError: nothing was saved, or it is damaged.
  """
  target = optim.split(abstract.params, config.optim)[0]
  with Checkpoints(workdir / REFERENCE, read_only=True) as checkpoints:
    if checkpoints.latest_step() is None:
      raise ValueError(
        f'{workdir / REFERENCE} must hold the parameters that the stage began with, for grpo.kl; it is missing. Set '
        'grpo.kl of the stage to 0, as when the stage began, or give a new --workdir'
      )
    return checkpoints.restore_params(0, target)
