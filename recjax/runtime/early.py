"""Sets up the process of a command before its imports, which take seconds and start threads."""

import os
import signal

from recjax.runtime import heap


def set_up() -> None:
  """Lets Ctrl-C end the process with one line, and all threads share one heap; `recjax.main` replaces the handler."""
  signal.signal(signal.SIGINT, _end)
  heap.use_one()


def _end(*_) -> None:
  os.write(2, b'interrupted: nothing was started\n')
  os._exit(130)
