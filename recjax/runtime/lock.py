"""A lock on a folder, held by one process at a time; it ends with its owner, however that ends.

On a local file system the kernel holds it (`flock` on `<folder>/.lock`), so a kill releases it. In a bucket
there is no such thing: the owner renews a lease in the same file, and a lease that was not renewed for
LEASE_S seconds has no owner.
"""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid

from etils import epath

from recjax.runtime.files import is_local

FILE = '.lock'
LEASE_S = 120.0
_RENEW_S = 30.0
_POLL_S = 0.5

log = logging.getLogger(__name__)


class Held(ValueError):
  """Another process holds the folder; the message names it."""


def _owner(purpose: str) -> dict[str, str | int]:
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return {'host': socket.gethostname(), 'process': os.getpid(), 'since': now, 'purpose': purpose}


def _describe(text: str) -> str:
  """The owner as a message names it."""
  try:
    owner = json.loads(text)
    return (
      f'process {owner["process"]} on {owner["host"]} ({owner["purpose"]}, since {owner["since"]})'
    )
  except (ValueError, KeyError, TypeError):  # written at this moment, or by hand
    return 'another process'


@contextlib.contextmanager
def hold(folder: epath.PathLike, purpose: str, wait: bool, field: str) -> Iterator[None]:
  """Holds a folder, which is created if need be; an empty one is removed at the end.

  Args:
    folder: what is held.
    purpose: what the owner does, for the messages of others: 'training'.
    wait: whether to wait for another owner, with a log line, or to refuse.
    field: what a user can set to use another folder: '--workdir'.

  Raises:
    Held: another process holds the folder, and `wait` is off.
  """
  folder = epath.Path(folder)
  kind = _flocked if is_local(folder) else leased
  created = not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with kind(folder, purpose, wait, field):
      yield
  finally:
    if created and is_local(folder):
      with contextlib.suppress(OSError):  # not empty: it is in use
        os.rmdir(folder)


def check_free(folder: epath.PathLike, field: str) -> None:
  """Raises `Held` where another process holds the folder now; changes nothing."""
  path = epath.Path(folder) / FILE
  if not path.exists():
    return
  if not is_local(path):
    if _lease_is_alive(path):
      raise _refusal(folder, path, field)
    return
  with path.open('r') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      raise _refusal(folder, path, field) from None


def _refusal(folder: epath.PathLike, path: epath.Path, field: str) -> Held:
  owner = _describe(path.read_text() if path.exists() else '')
  return Held(
    f'{folder} must be used by one process at a time; {owner} uses it. Wait for its end, or set {field} to '
    'another folder'
  )


class _Wait:
  """Between two tries: refuses, or waits and says once for whom."""

  def __init__(self, folder: epath.Path, wait: bool, field: str):
    self._folder, self._wait, self._field, self._said = folder, wait, field, False

  def __call__(self) -> None:
    path = self._folder / FILE
    if not self._wait:
      raise _refusal(self._folder, path, self._field)
    if not self._said:
      owner = _describe(path.read_text() if path.exists() else '')
      log.info('waiting for %s, which uses %s', owner, self._folder)
      self._said = True
    time.sleep(_POLL_S)


@contextlib.contextmanager
def _flocked(folder: epath.Path, purpose: str, wait: bool, field: str) -> Iterator[None]:
  again = _Wait(folder, wait, field)
  path = os.fspath(folder / FILE)
  while True:
    folder.mkdir(parents=True, exist_ok=True)  # the last owner may have removed it
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_still(descriptor, path):
        break
      os.close(descriptor)  # its last owner removed the file in the meantime
    except BlockingIOError:
      os.close(descriptor)
      again()
  _held.add(descriptor)
  try:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_owner(purpose)).encode())
    yield
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
    _held.discard(descriptor)
    os.close(descriptor)


def _is_still(descriptor: int, path: str) -> bool:
  """Whether the open file is the one that the path names now."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


# A forked child shares the open file and would keep the lock beyond its owner's death.
_held: set[int] = set()


def _close_in_child() -> None:
  for descriptor in _held:
    os.close(descriptor)
  _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _lease_is_alive(path: epath.Path) -> bool:
  try:
    renewed = float(json.loads(path.read_text())['renewed'])
  except (OSError, ValueError, KeyError, TypeError):
    return False
  return time.time() - renewed < LEASE_S


@contextlib.contextmanager
def leased(folder: epath.Path, purpose: str, wait: bool, field: str) -> Iterator[None]:
  """As `hold`, by a lease that a thread renews: for buckets.

  Buckets have no atomic creation here: who reads its own token back after a pause is the owner.
  """
  again, path, token = _Wait(folder, wait, field), folder / FILE, uuid.uuid4().hex
  owner = _owner(purpose)

  def write() -> None:
    path.write_text(json.dumps(owner | {'token': token, 'renewed': time.time()}))

  def is_mine() -> bool:
    return path.exists() and f'"{token}"' in path.read_text()

  while True:
    if path.exists() and _lease_is_alive(path):
      again()
      continue
    write()
    time.sleep(2 * _POLL_S)
    if is_mine():
      break
  ended = threading.Event()

  def renew() -> None:
    while not ended.wait(_RENEW_S):
      write()

  thread = threading.Thread(target=renew, name='lease', daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    if is_mine():
      path.unlink(missing_ok=True)
