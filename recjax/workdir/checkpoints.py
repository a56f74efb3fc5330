"""Checkpoints of a workdir: parameters, optimizer state and stream position, saved asynchronously by Orbax."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import logging
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from recjax.runtime import distributed, messages
from recjax.runtime.files import is_local
from recjax.workdir import read_back
from recjax.workdir.checkpoint_folder import CheckpointFolder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Meta:
  """The part of a checkpoint that is saved as JSON.

  Attributes:
    examples_seen: the position in the stream.
    stream: the fingerprint of the stream, by part; a resume must match it.
    code_space: `SidTable.code_space_hash`; the SIDs of the data must match it.
    evaluations: [step, metrics] of every evaluation so far.
    config: the config of the training.
  """

  examples_seen: int
  stream: dict[str, str]
  code_space: str
  evaluations: list[tuple[int, dict[str, float]]]
  config: dict[str, Any]


class Checkpoints:
  """The checkpoints of one workdir. The newest ones and the best one are kept.

  A damaged checkpoint is logged and skipped: the next one in order is used instead. The first checkpoint of a
  workdir is read back before `save` returns.
  """

  def __init__(self, workdir: epath.PathLike, max_to_keep: int = 1, read_only: bool = False):
    path = epath.Path(workdir) / 'checkpoints'
    if is_local(path):
      path = path.absolute()  # Orbax refuses relative paths
    self.folder = path
    self._folder = CheckpointFolder(path, max_to_keep, read_only)
    self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: tuple[int, futures.Future] | None = None
    self._is_first = not self._folder.steps

  @property
  def steps(self) -> list[int]:
    """The kept steps, ascending; they are not checked for damage."""
    return self._folder.steps

  def latest_step(self) -> int | None:
    """Returns the newest undamaged step; None if nothing was ever saved.

    Raises:
      ValueError: every checkpoint is damaged.
    """
    self.wait()
    return self._folder.newest()

  def best_step(self) -> int | None:
    """Returns the step with the highest score, or the newest if none was evaluated."""
    self.wait()
    return self._folder.best()

  def save(self, step: int, items: dict[str, Any], meta: Meta, score: float | None) -> None:
    """Starts an asynchronous save after the previous save has finished.

    The first save of a workdir is synchronous and read back.

    Args:
      step: names the checkpoint.
      items: trees of arrays by name; `restore_params` reads `params`.
      meta: saved beside them.
      score: `Selection.score` of the evaluation at this step; None if there was none.

    Raises:
      OSError: this checkpoint or the previous one could not be written, or this one not read back.
    """
    self.wait()
    saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    args = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(dataclasses.asdict(meta)))
    with self._named_errors(step):
      if distributed.is_host0():
        self.folder.mkdir(parents=True, exist_ok=True)
      self._orbax.save(self.folder / str(step), args=args, force=True)
    self._saving = step, self._thread.submit(self._commit, step, score)
    if self._is_first:
      self.wait()
      self._read_back(step, items)
      self._is_first = False

  def score(self, step: int, score: float | None) -> None:
    """Adds the score to a checkpoint that was saved without one."""
    self.wait()
    self._folder.score(step, score)

  def was_removed(self, step: int) -> bool:
    """Returns whether the training run has removed a checkpoint since it was listed; see `read_run`."""
    return self._folder.was_removed(step)

  def meta(self, step: int) -> Meta:
    """Reads the JSON part of a checkpoint."""
    return Meta(**self._restore(step, meta=ocp.args.JsonRestore()).meta)

  def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Restores the saved items to the shardings of the abstract trees of the same names."""
    wanted = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    restored = self._restore(step, **wanted)
    return {name: restored[name] for name in abstract}

  def restore_params(self, step: int, abstract_params: Any) -> Any:
    """Restores the parameters alone: for evaluation, recommending and `init_from`."""
    return self._restore(step, params=ocp.args.StandardRestore(abstract_params)).params

  def check(self) -> None:
    """Raises an OSError if the running save has failed; does not wait for it."""
    if self._saving is not None and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Waits for the end of a running save.

    Raises:
      OSError: the checkpoint could not be written.
    """
    if self._saving is not None:
      (step, saving), self._saving = self._saving, None
      with self._named_errors(step):
        saving.result()

  def close(self) -> None:
    """Waits for the end of a running save and ends the threads."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._orbax.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _commit(self, step: int, score: float | None) -> None:
    self._orbax.wait_until_finished()
    self._folder.commit(step, score)

  def _read_back(self, step: int, items: dict[str, Any]) -> None:
    try:
      read_back.read_back(self.folder / str(step), read_back.abstract(items))
    except Exception as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' in str(error):
        # Arrays are read beside the train state. Full device memory says nothing about the files.
        log.warning('checkpoint %d is not read back: the device memory is full', step)
        return
      self._folder.discard(step)
      text = str(error).partition('[tensorstore_spec=')[0].strip()
      raise OSError(
        f'checkpoint {step} was written in {self.folder}, but cannot be read back: {text}. Repair the file '
        'system, or set --workdir to a folder on another one'
      ) from error

  def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    self.wait()
    self._folder.check_undamaged(step)
    return self._orbax.restore(self.folder / str(step), args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _named_errors(self, step: int) -> Iterator[None]:
    """Adds step, folder and remedy to the message of a failed save."""
    try:
      yield
    except TimeoutError:  # it already names the process that is missing
      raise
    except Exception as error:
      raise OSError(
        f'checkpoint {step} could not be written in {self.folder}: {error}. Earlier ones are untouched; '
        f'{messages.remedy(error)}, then start the same command again'
      ) from error


def read_run(
  workdir: epath.PathLike,
  choose: Callable[[Checkpoints], int],
  read: Callable[[Checkpoints, int], Any],
) -> Any:
  """Reads a checkpoint of a run that may still be training.

  Args:
    workdir: workdir of the run.
    choose: returns the step to read; called again if the run removes that checkpoint in the meantime.
    read: reads the chosen step.

  Returns:
    The result of `read`.
  """
  with Checkpoints(workdir, read_only=True) as checkpoints:
    while True:
      step = choose(checkpoints)
      try:
        return read(checkpoints, step)
      except (OSError, ValueError):
        if not checkpoints.was_removed(step):
          raise
