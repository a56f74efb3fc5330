"""Locks a folder for one process at a time. A lock ends with its owner, even if the owner is killed.

On a file system the kernel holds the lock (`flock` on `<folder>/.lock`, also across NFS clients). Buckets and
file systems without `flock` use a lease instead: the owner renews it in the same file every 30 seconds. A
lease that is not renewed for LEASE_S seconds has expired. The waiting process measures this time with its own
clock, because the clocks of two machines may differ.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid

from etils import epath

from recjax.runtime.files import is_local, write_whole

FILE = '.lock'
LEASE_S = 120.0
_RENEW_S = 30.0
_POLL_S = 0.5
_OLD_S = 3600.0  # a lease older than this has expired; no two clocks differ by that much
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

log = logging.getLogger(__name__)


class Held(ValueError):
  """Another process holds the folder; the message names it."""


@contextlib.contextmanager
def hold(folder: epath.PathLike, purpose: str, wait: bool, field: str) -> Iterator[None]:
  """Holds the lock of a folder.

  Creates the folder if it does not exist, and removes it at the end if it is still empty.

  Args:
    folder: local or in a bucket.
    purpose: activity of this process, for the messages of other processes: 'training'.
    wait: True waits for another owner and logs its name; False raises.
    field: flag or field that sets the folder, for the message: '--workdir'.

  Raises:
    Held: another process holds the folder, and `wait` is False.
    ValueError: the folder is not writable.
  """
  folder = epath.Path(folder)
  kind = _flocked if is_local(folder) else leased
  created = not folder.exists()
  try:
    with kind(folder, purpose, wait, field):
      yield
  finally:
    if created and is_local(folder):
      with contextlib.suppress(OSError):  # not empty, so it is in use
        os.rmdir(folder)


def check_free(folder: epath.PathLike, field: str) -> None:
  """Checks that no process holds a folder now; writes nothing.

  In a bucket the check takes up to LEASE_S seconds if the last owner was killed.

  Args:
    folder: local or in a bucket; need not exist.
    field: see `hold`.

  Raises:
    Held: another process holds the folder.
  """
  path = epath.Path(folder) / FILE
  if not is_local(path):
    if _is_renewed(path):
      raise _refusal(path, field)
    return
  try:
    with path.open('r') as f:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except FileNotFoundError:
    return
  except BlockingIOError:
    raise _refusal(path, field) from None
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    if _is_renewed(path):
      raise _refusal(path, field) from None


def _owner(purpose: str) -> dict[str, str | int]:
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return {'host': socket.gethostname(), 'process': os.getpid(), 'since': now, 'purpose': purpose}


def _read(path: epath.Path) -> str:
  """Returns the text of a lock file; '' if there is none."""
  try:
    return path.read_text() if path.exists() else ''
  except FileNotFoundError:  # removed between the two calls
    return ''


def _describe(path: epath.Path) -> str:
  """Returns the owner of a lock, in words for a message."""
  try:
    owner = json.loads(_read(path))
    return (
      f'process {owner["process"]} on {owner["host"]} ({owner["purpose"]}, since {owner["since"]})'
    )
  except (ValueError, KeyError, TypeError):  # empty: the owner has not written it yet
    return 'another process'


def _refusal(path: epath.Path, field: str) -> Held:
  return Held(
    f'{path.parent} must be used by one process at a time; {_describe(path)} uses it. Wait for its end, or '
    f'set {field} to another folder'
  )


def _not_writable(folder: epath.Path, field: str, error: OSError) -> ValueError:
  return ValueError(f'{folder} must be writable; got {error}. Set {field} to another folder')


def _make(folder: epath.Path, field: str) -> None:
  """Creates a folder if need be.

  Raises:
    ValueError: that is impossible.
  """
  for is_last in (False, False, True):
    try:
      folder.mkdir(parents=True, exist_ok=True)
      return
    except OSError as error:
      # Another process may have removed the empty folder between two steps of `mkdir`.
      if is_last or not isinstance(error, FileExistsError | FileNotFoundError):
        raise _not_writable(folder, field, error) from None


class _Wait:
  """Runs between two attempts to take the lock: raises `Held`, or logs the owner once and pauses."""

  def __init__(self, folder: epath.Path, wait: bool, field: str):
    self._path, self._wait, self._field, self._has_logged = folder / FILE, wait, field, False

  def __call__(self) -> None:
    if not self._wait:
      raise _refusal(self._path, self._field)
    if not self._has_logged:
      log.info('waiting for %s, which uses %s', _describe(self._path), self._path.parent)
      self._has_logged = True
    time.sleep(_POLL_S)


def _acquire(folder: epath.Path, wait: bool, field: str) -> int | None:
  """Returns the locked file descriptor; None if the file system has no `flock`."""
  pause, path, attempts = _Wait(folder, wait, field), os.fspath(folder / FILE), 0
  while True:
    _make(folder, field)
    try:
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # the previous owner removed the folder between the two calls
      continue
    except OSError as error:
      if error.errno in _NOT_WRITABLE:
        raise _not_writable(folder, field, error) from None
      raise
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_same_file(descriptor, path):
        return descriptor
      os.close(descriptor)  # the previous owner has removed this file
    except BlockingIOError:
      os.close(descriptor)
      attempts += 1
      if attempts == 1:
        time.sleep(0.1)  # `check_free` of another process may have held it for a moment
      else:
        pause()
    except OSError as error:
      os.close(descriptor)
      if error.errno in _NO_FLOCK:
        return None
      raise


def _is_same_file(descriptor: int, path: str) -> bool:
  """Returns whether the path still names the open file."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def _flocked(folder: epath.Path, purpose: str, wait: bool, field: str) -> Iterator[None]:
  descriptor = _acquire(folder, wait, field)
  if descriptor is None:
    with leased(folder, purpose, wait, field):
      yield
    return
  _held.add(descriptor)
  try:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_owner(purpose)).encode())
    yield
  finally:
    if descriptor in _held:  # not in a forked child, which does not own the lock
      _held.discard(descriptor)
      with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / FILE)
      os.close(descriptor)


# A forked child shares the open file and would keep the lock after the death of the owner.
_held: set[int] = set()


def _close_in_child() -> None:
  for descriptor in _held:
    os.close(descriptor)
  _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _is_renewed(path: epath.Path) -> bool:
  """Waits until a lease is renewed or has expired; returns whether it was renewed."""
  first = _read(path)
  try:
    is_old = time.time() - float(json.loads(first)['renewed']) > _OLD_S
  except (ValueError, KeyError, TypeError):
    is_old = False
  deadline = time.monotonic() + LEASE_S
  while first and not is_old and time.monotonic() < deadline:
    time.sleep(_RENEW_S / 6)
    now = _read(path)
    if now != first:
      return bool(now)
  return False


@contextlib.contextmanager
def leased(folder: epath.Path, purpose: str, wait: bool, field: str) -> Iterator[None]:
  """Holds a folder like `hold`, by a lease that a thread renews.

  A bucket cannot create a file exclusively. So a process writes its token, and owns the lease if it reads the
  same token back after a pause. If a process was suspended until its lease expired and another process took
  it, the suspended process ends with status 1 when it resumes.
  """
  pause, path, token = _Wait(folder, wait, field), folder / FILE, uuid.uuid4().hex
  owner = _owner(purpose)

  def write() -> None:
    text = json.dumps(owner | {'token': token, 'renewed': time.time()})
    write_whole(path, text, is_durable=False)  # a reader never sees an empty lease

  _make(folder, field)
  while True:
    if _is_renewed(path):
      pause()
      continue
    write()
    time.sleep(2 * _POLL_S)
    if token in _read(path):
      break
  ended = threading.Event()

  def renew() -> None:
    while not ended.wait(_RENEW_S):
      try:
        text = _read(path)
        if text and token not in text:
          log.error('%s took the lease of %s: this process ends', _describe(path), folder)
          os._exit(1)
        write()
      except Exception as error:  # noqa: BLE001 - a bucket may be unreachable for a while
        log.warning('the lease %s could not be renewed: %s; trying again', path, error)

  thread = threading.Thread(target=renew, name='lease', daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    if os.getpid() == owner['process']:  # not in a forked child
      thread.join()
      try:
        if token in _read(path):
          path.unlink(missing_ok=True)
      except Exception as error:  # noqa: BLE001 - the lease expires by itself
        log.warning('the lease %s could not be removed: %s', path, error)
