"""Locks the workdir of a training run, so that two runs never write to it at once."""

from collections.abc import Iterator
import contextlib
import os

from etils import epath

from recjax.runtime import distributed, lock
from recjax.runtime.files import is_local

# Orbax lists the files of a checkpoint with a glob over the full path. A path with these characters would
# match nothing, or the files of another run.
_GLOB = '*?[\\'


def check_path(workdir: epath.Path, setting: str = '--workdir') -> None:
  """Raises a ValueError if Orbax would take the path of a workdir for a glob pattern."""
  path = os.fspath(workdir.absolute() if is_local(workdir) else workdir)
  found = [character for character in _GLOB if character in path]
  if found:
    raise ValueError(
      f'the path of a workdir must not contain any of {" ".join(_GLOB)}, which Orbax takes for a pattern; '
      f'{path} contains {" ".join(found)}. Set {setting} to a path without them'
    )


@contextlib.contextmanager
def claimed(workdir: epath.Path) -> Iterator[None]:
  """Holds the lock of a workdir; every process of a run must enter it.

  Process 0 takes the lock and tells the other processes the outcome. The workdir is created. It is removed at
  the end if it is empty.

  Raises:
    ValueError: another run holds the workdir (`lock.Held`), the workdir cannot be made or written, or its path is
      refused by `check_path`.
  """
  check_path(workdir)
  with contextlib.ExitStack() as held:
    refusal = None
    if distributed.is_host0():
      try:
        held.enter_context(lock.hold(workdir, 'training', wait=False, field='--workdir'))
      except (ValueError, OSError) as error:  # any refusal must reach the other processes
        refusal = str(error)
    refusal = distributed.from_host0('claim of the workdir', refusal)
    if refusal is not None:
      raise lock.Held(refusal)
    yield
