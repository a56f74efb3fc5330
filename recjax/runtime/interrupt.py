"""Ctrl-C: a thread that ends the process at the first SIGINT, or at the second while something is finished.

Python runs a signal handler only between two byte codes of the main thread. A compilation or a library in C may
take minutes, and an exception that a handler raises in a callback is lost. So the handler in C writes every signal
to a pipe, and a thread reads the pipe. The end of the process is safe: files are replaced whole, as for SIGKILL.
"""

from collections.abc import Iterator
import contextlib
import multiprocessing
from multiprocessing import resource_tracker
import os
import signal
import sys
import threading

from recjax.runtime import exit_status, files, watchdog

_thread: threading.Thread | None = None
_line = 'interrupted'
_is_shown = True
_activity = ''  # of the innermost `finishing`
_count = 0  # signals so far


def start() -> None:
  """Starts the thread; call it from the main thread. Another call changes nothing."""
  global _thread
  if _thread is None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    _thread = threading.Thread(target=_follow, args=(read_end,), name='Ctrl-C', daemon=True)
    _thread.start()


def is_requested() -> bool:
  """Returns whether SIGINT arrived."""
  return _count > 0


def set_line(line: str, is_shown: bool = True) -> None:
  """Sets the line that is printed if the first signal ends the process.

  Args:
    line: the line.
    is_shown: whether this process prints it; only one of several processes needs to.
  """
  global _line, _is_shown
  _line, _is_shown = line, is_shown


@contextlib.contextmanager
def finishing(activity: str) -> Iterator[None]:
  """Lets the work inside end after the first SIGINT however long it takes; the second one ends it.

  Args:
    activity: what is finished, for the message: 'saving this step'.
  """
  global _activity
  outer, _activity = _activity, activity
  try:
    yield
  finally:
    _activity = outer


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
  """Starts processes inside with SIGINT and SIGTERM blocked.

  A terminal sends Ctrl-C to all processes of the group, and launchers send SIGTERM to them. The main process
  alone decides when its children end.
  """
  # The tracker frees the shared memory of killed processes. Its start would unblock the signals, and it would warn
  # about that memory.
  saved = os.environ.get('PYTHONWARNINGS')
  os.environ['PYTHONWARNINGS'] = 'ignore::UserWarning:multiprocessing.resource_tracker'
  try:
    resource_tracker.ensure_running()
  finally:
    del os.environ['PYTHONWARNINGS']
    if saved is not None:
      os.environ['PYTHONWARNINGS'] = saved
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_child(*_) -> None:
  """Ignores SIGINT and SIGTERM; for the start of a child."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)


def _follow(read_end: int) -> None:
  global _count
  while True:
    for number in os.read(read_end, 64):
      if number != signal.SIGINT:
        continue
      _count += 1
      if _count > 1:
        end('interrupted twice: ended at once; the same command resumes from what is saved')
      if not _activity:
        end(_line)
      _show(f'interrupted: {_activity}; press Ctrl-C again to end at once')


def _show(line: str) -> None:
  """Prints a line on standard error. It takes no lock: the main thread may hold any."""
  if _is_shown:
    is_terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    start_of_line = '\r\x1b[K' if is_terminal else ''  # over a progress bar
    os.write(2, f'{start_of_line}{line}\n'.encode())


def end(line: str = '') -> None:
  """Ends this process with exit_status.INTERRUPTED, its children and the other processes of the run.

  Waits for nothing. Partial files are removed.

  Args:
    line: printed first; empty: none.
  """
  if line:
    _show(line)
  for child in multiprocessing.active_children():
    child.kill()
  files.remove_open_partials()
  watchdog.fail('interrupted', '', exit_status.INTERRUPTED)
  os._exit(exit_status.INTERRUPTED)
