"""Memory of a process without pages of mapped files, and of the processes that it started."""

import contextlib
import os
import pathlib
import resource


def own_bytes() -> int:
  """Returns the resident bytes of this process that belong to no file (RssAnon of Linux)."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(status.split('RssAnon:')[1].split()[0]) * 1024


def workers_bytes() -> int:
  """Returns the resident bytes of all processes below this one, added up: shared libraries count once a process."""
  total, parents = 0, [os.getpid()]
  while parents:
    for path in pathlib.Path(f'/proc/{parents.pop()}/task').glob('*/children'):
      with contextlib.suppress(OSError):  # the process has ended
        for child in path.read_text().split():
          total += int(pathlib.Path(f'/proc/{child}/statm').read_text().split()[1])
          parents.append(int(child))
  return total * resource.getpagesize()
