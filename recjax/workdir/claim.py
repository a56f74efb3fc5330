"""The claim of a run on its workdir: one training run at a time."""

from collections.abc import Iterator
import contextlib
import logging
import os
import time

from etils import epath

from recjax.runtime import distributed, lock
from recjax.runtime.files import is_local

# Orbax lists the files of a checkpoint with a glob over the whole path. A path with these characters
# matches nothing, or the files of another run.
_GLOB = '*?[\\'
_POLL_S = 5.0

log = logging.getLogger(__name__)


def check_path(workdir: epath.Path) -> None:
  """Raises a ValueError where Orbax would take the path of a workdir for a glob pattern."""
  path = os.path.abspath(workdir) if is_local(workdir) else os.fspath(workdir)
  found = [character for character in _GLOB if character in path]
  if found:
    raise ValueError(
      f'the path of a workdir must not contain any of {" ".join(_GLOB)}, which Orbax takes for a pattern; '
      f'{path} contains {" ".join(found)}. Set --workdir to a path without them'
    )


@contextlib.contextmanager
def claimed(workdir: epath.Path) -> Iterator[None]:
  """Holds the lock of a workdir; every process of a run must enter it.

  Host 0 holds the lock and tells the other processes whether it got it. The workdir is created, and removed
  at the end if it is empty.

  Raises:
    ValueError: another run holds the workdir (`lock.Held`), or its path is refused by `check_path`.
  """
  check_path(workdir)
  with contextlib.ExitStack() as held:
    refusal = None
    if distributed.is_host0():
      try:
        _hold(workdir, held)
      except lock.Held as error:
        refusal = str(error)
    refusal = distributed.from_host0('claim of the workdir', refusal)
    if refusal is not None:
      raise lock.Held(refusal)
    yield


def _hold(workdir: epath.Path, held: contextlib.ExitStack) -> None:
  """Takes the lock; in a bucket it waits once for the lease of a killed run to expire."""
  deadline = time.monotonic() + (0 if is_local(workdir) else lock.LEASE_S + _POLL_S)
  is_waiting = False
  while True:
    try:
      held.enter_context(lock.hold(workdir, 'training', wait=False, field='--workdir'))
      return
    except lock.Held as error:
      if time.monotonic() >= deadline:
        raise
      if not is_waiting:
        log.info(
          'waiting up to %.0f s for the lease on the workdir to expire: %s', lock.LEASE_S, error
        )
        is_waiting = True
      time.sleep(_POLL_S)
