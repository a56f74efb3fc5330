"""Checkpoints of a training with copies of its state in the memory of the hosts between two saves."""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
from typing import Any

from etils import epath
import jax

from recjax.runtime import distributed, goodput, watchdog
from recjax.runtime.preemption import Preempted
from recjax.schema.run import Checkpoint, Hosts
from recjax.workdir import starts
from recjax.workdir.checkpoints import Checkpoints, Meta
from recjax.workdir.emergency.copies import Copies, Found, run_name

log = logging.getLogger(__name__)


class EmergencyCheckpoints(Checkpoints):
  """`Checkpoints` that also restores a newer copy in memory, if there is a complete one."""

  def __init__(
    self, workdir: epath.Path, settings: Checkpoint, abstract: Any, mesh: jax.sharding.Mesh
  ):
    """Opens the checkpoints.

    Args:
      workdir: folder of the training.
      settings: the config section.
      abstract: ShapeDtypeStructs of what is saved, with shardings on the mesh.
      mesh: the mesh.

    Raises:
      ValueError: `checkpoint.memory_folder` has too little room, or cannot be written.
    """
    super().__init__(workdir, settings.max_to_keep)
    self._workdir, self._settings = workdir, settings
    self._abstract, self._mesh = abstract, mesh
    self._copies = self._open() if settings.memory_every else None
    self._found: Found | None = None

  def _open(self) -> Copies | None:
    """Returns the copies of this training; None before its first start was recorded."""
    first = starts.read(self._workdir)[:1] if distributed.is_host0() else None
    if not (first := distributed.from_host0('first start', first)):
      return None
    run = run_name(self._workdir, first)
    return Copies(self._settings.memory_folder, run, self._abstract, self._mesh)

  def latest_step(self) -> int | None:
    """Returns the newest undamaged step, on disk or in memory; None if nothing was ever saved.

    Raises:
      ValueError: every checkpoint is damaged.
    """
    steps, step = self.steps, super().latest_step()  # which drops damaged steps
    if self._copies is None:
      return step
    self._found = self._copies.find(steps, -1 if step is None else step)
    return step if self._found is None else self._found.first.step

  def meta(self, step: int) -> Meta:
    """Returns the JSON part of a checkpoint, or of the copy in memory that `latest_step` found."""
    return Meta(**self._found.first.meta) if self._is_in_memory(step) else super().meta(step)

  def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Restores a checkpoint, or the copy in memory that `latest_step` found."""
    if not self._is_in_memory(step):
      return super().restore(step, abstract)
    log.info('step %d is restored from the memory of the hosts', step)
    restored, self._found = self._copies.restore(self._found, abstract), None
    return restored

  def score(self, step: int, score: float | None) -> None:
    """Adds the score to a checkpoint that was saved without one; a copy in memory has none."""
    if step in self.steps:
      super().score(step, score)

  def is_copy_due(self, step: int) -> bool:
    """Returns whether the state after a step is to be copied to memory."""
    return self._settings.memory_every > 0 and step % self._settings.memory_every == 0

  def copy(self, step: int, items: dict[str, Any], meta: Meta) -> None:
    """Copies the state to the memory of the hosts."""
    if self._copies is None:
      self._copies = self._open()
    base = max(self.steps, default=None)
    self._copies.save(step, items, dataclasses.asdict(meta), base)

  def _is_in_memory(self, step: int) -> bool:
    return self._found is not None and self._found.first.step == step

  def __exit__(self, kind: type[BaseException] | None, *others: Any) -> None:
    super().__exit__(kind, *others)
    if self._copies is not None and (kind is None or issubclass(kind, Preempted)):
      self._copies.remove()  # the last step is saved


@contextlib.contextmanager
def checkpointing(activity: str, limits: Hosts) -> Iterator[None]:
  """Counts the time inside as checkpointing, and ends the run if it exceeds `hosts.phase_timeout`."""
  with watchdog.expect(activity, limits.phase_timeout), goodput.phase('checkpoint'):
    yield
