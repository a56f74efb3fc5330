"""Checkpoints: parameters, optimizer, and where the run stands, saved asynchronously by Orbax."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import os
from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from recjax.runtime import distributed
from recjax.workdir.checkpoint_folder import CheckpointFolder

METRIC = 'ndcg@10'  # of the validation sample; chooses the best checkpoint


@dataclasses.dataclass(frozen=True)
class Meta:
  """What a checkpoint knows beside its arrays.

  Attributes:
    examples_seen: the position in the stream.
    stream: the fingerprint of the stream, part by part; a resume is bound to it.
    code_space: the hash of (levels, codes a level, quantizer); a model is bound to it.
    evaluations: [step, metrics] of every evaluation so far.
    config: the config of the run.
  """

  examples_seen: int
  stream: dict[str, str]
  code_space: str
  evaluations: list[tuple[int, dict[str, float]]]
  config: dict[str, Any]


class Checkpoints:
  """The checkpoints of one workdir: the newest ones and the best one are kept.

  Only whole ones are used: a damaged one is named in a log line, and the next in order takes its place.
  """

  def __init__(self, workdir: epath.PathLike, max_to_keep: int = 1, read_only: bool = False):
    path = epath.Path(workdir) / 'checkpoints'
    if '://' not in os.fspath(path):
      path = path.absolute()  # Orbax takes no relative path
    self.folder = path
    self._folder = CheckpointFolder(path, max_to_keep, read_only)
    self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: tuple[int, futures.Future] | None = None

  @property
  def steps(self) -> list[int]:
    """Those that are kept; whether they are whole is not looked at."""
    return self._folder.steps

  def latest_step(self) -> int | None:
    """The newest step that is whole; None where nothing was ever saved.

    Raises:
      ValueError: there were checkpoints, and none is whole.
    """
    self.wait()
    return self._folder.newest()

  def best_step(self) -> int | None:
    """The evaluated step with the best METRIC, or the newest where none was evaluated."""
    self.wait()
    return self._folder.best()

  def save(
    self, step: int, items: dict[str, Any], meta: Meta, metrics: dict[str, float] | None
  ) -> None:
    """Starts an asynchronous save, after the save before it has finished.

    Args:
      step: names the checkpoint.
      items: trees of arrays by name; `params` is the one that `restore_params` reads.
      meta: written beside them.
      metrics: of the evaluation of this step, where there was one.

    Raises:
      OSError: this checkpoint or the one before could not be written.
    """
    self.wait()
    saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    args = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(dataclasses.asdict(meta)))
    with self._naming_the_folder(step):
      if distributed.is_host0():
        self.folder.mkdir(parents=True, exist_ok=True)
      self._orbax.save(self.folder / str(step), args=args, force=True)
    score = None if metrics is None else metrics[METRIC]
    self._saving = step, self._thread.submit(self._commit, step, score)

  def score(self, step: int, metrics: dict[str, float]) -> None:
    """Gives its score to a checkpoint that was saved without one."""
    self.wait()
    self._folder.score(step, metrics[METRIC])

  def was_removed(self, step: int) -> bool:
    """Whether the run, which trains on, has removed a checkpoint that was to be read here."""
    return self._folder.was_removed(step)

  def meta(self, step: int) -> Meta:
    return Meta(**self._restore(step, meta=ocp.args.JsonRestore()).meta)

  def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """The items that were saved, onto the shardings of abstract trees by the same names."""
    wanted = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    restored = self._restore(step, **wanted)
    return {name: restored[name] for name in abstract}

  def restore_params(self, step: int, abstract_params: Any) -> Any:
    """The parameters alone: for evaluation, recommending and `init_from`."""
    return self._restore(step, params=ocp.args.StandardRestore(abstract_params)).params

  def check(self) -> None:
    """Raises the OSError of a save that failed in the meantime; does not wait."""
    if self._saving is not None and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Waits until nothing is being written.

    Raises:
      OSError: the checkpoint could not be written.
    """
    if self._saving is not None:
      (step, saving), self._saving = self._saving, None
      with self._naming_the_folder(step):
        saving.result()

  def close(self) -> None:
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

  def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    self.wait()
    self._folder.check_whole(step)
    return self._orbax.restore(self.folder / str(step), args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _naming_the_folder(self, step: int) -> Iterator[None]:
    try:
      yield
    except TimeoutError:  # the others did not come; it says who
      raise
    except Exception as error:
      raise OSError(
        f'checkpoint {step} could not be written in {self.folder}: {error}. Those before it are untouched; '
        'make room there or mend it, then start the same command again'
      ) from error


def read_run(
  workdir: epath.PathLike,
  choose: Callable[[Checkpoints], int],
  read: Callable[[Checkpoints, int], Any],
) -> Any:
  """What `read` makes of the chosen step of a run, which may be training: one that it removes is chosen anew."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    while True:
      step = choose(checkpoints)
      try:
        return read(checkpoints, step)
      except (OSError, ValueError):
        if not checkpoints.was_removed(step):
          raise
