"""A long output file that is written part by part, so that a killed command continues after its last whole part.

Parts lie in the hidden folder `.<name>.parts` beside the file until it is complete. A part appears under its name only
when it is whole; the name holds its number and its size in bytes. `progress.json` records what the parts are of: parts
of another input, another model or other settings are removed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import logging
import os
import re
from typing import IO, Any

from etils import epath

from recjax.runtime import distributed, files, lock

log = logging.getLogger(__name__)

_RECORD = 'progress.json'
_PART = re.compile(r'(\d{6,})\.(\d+)\.part')


class Parts:
  """The parts of one output file. Process 0 reads and writes them; the other processes know their number.

  Attributes:
    out: the output file.
    identity: JSON values that decide its content.
  """

  def __init__(self, out: epath.PathLike, identity: Mapping[str, Any]):
    """Looks for parts of an earlier command; writes nothing.

    Args:
      out: the output file.
      identity: JSON values that decide the content of the file.
    """
    self.out = epath.Path(out)
    self._folder = self.out.with_name(f'.{self.out.name}.parts')
    self.identity = dict(identity)

  def recorded(self) -> dict[str, Any] | None:
    """Returns the facts that an earlier command with the same identity recorded, in every process. None: there was none."""
    record = self._earlier() if distributed.is_host0() else None
    is_same = record is not None and record['identity'] == self.identity
    return distributed.from_host0('parts', record['facts'] if is_same else None)

  def _earlier(self) -> dict[str, Any] | None:
    """Returns the record of an earlier command. None: there is none, or it is damaged."""
    try:
      record = json.loads((self._folder / _RECORD).read_text())
      return record if record.keys() == {'identity', 'facts'} else None
    except (OSError, ValueError, AttributeError):
      return None

  @contextlib.contextmanager
  def opened(self, facts: Mapping[str, Any]) -> Iterator[int]:
    """Holds the parts for this command, and yields the number of whole parts at the beginning of the file.

    Args:
      facts: further JSON values to remember, such as the size of the input; see `recorded`.

    Raises:
      ValueError: another process writes the same file.
    """
    with contextlib.ExitStack() as stack:
      done = 0
      if distributed.is_host0():
        self.out.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(self._remove_empty)
        stack.enter_context(lock.hold(self._folder, 'recommending', wait=False, field='--out'))
        done = self._begun(dict(facts))
      yield distributed.from_host0('whole parts', done)

  def _begun(self, facts: dict[str, Any]) -> int:
    """Keeps the parts of the same identity, or removes all of them; returns the number of whole ones."""
    earlier, now = self._earlier(), self.identity
    if earlier is not None and earlier['identity'] == now:
      whole = self._whole()
      done = next(n for n in range(len(whole) + 1) if n not in whole)
      self._remove({whole[n] for n in range(done)})
      return done
    if self._whole():
      was = {} if earlier is None else files.flat(earlier['identity'])
      new = files.flat(now)
      names = sorted(key for key in was.keys() | new.keys() if was.get(key) != new.get(key))
      log.warning(
        '%s: starting anew; the finished parts of an earlier command differ in %s',
        *(self.out, ', '.join(names) or 'their record'),
      )
    self._remove(set())
    files.write_whole(self._folder / _RECORD, json.dumps({'identity': now, 'facts': facts}))
    return 0

  def _whole(self) -> dict[int, epath.Path]:
    """Returns the parts by number, without those of another size than their name says."""
    found = {}
    for path in self._folder.iterdir() if self._folder.exists() else ():
      match = _PART.fullmatch(path.name)
      if match and path.stat().length == int(match[2]):
        found[int(match[1])] = path
    return found

  def _remove(self, kept: set[epath.Path]) -> None:
    """Removes all parts and partial files but `kept`."""
    for path in self._folder.iterdir():
      if path not in kept and path.name not in (lock.FILE, _RECORD):
        path.unlink(missing_ok=True)

  def _remove_empty(self) -> None:
    """Removes the folder after its last file; called without the lock."""
    if files.is_local(self._folder):
      with contextlib.suppress(OSError):  # it holds parts, or does not exist
        os.rmdir(self._folder)

  def write(self, number: int, content: bytes) -> None:
    """Writes a part, in process 0."""
    if distributed.is_host0():
      files.write_whole(self._folder / f'{number:06}.{len(content)}.part', content)

  def join(self, count: int, write: Callable[[Sequence[epath.Path], IO], None]) -> None:
    """Writes the output file from all its parts, atomically, and removes them, in process 0.

    Args:
      count: number of parts.
      write: writes the parts, given in their order, into an open binary file.
    """
    if not distributed.is_host0():
      return
    whole = self._whole()
    with files.replacing(self.out, 'wb') as f:
      write([whole[number] for number in range(count)], f)
    self._remove(set())
    (self._folder / _RECORD).unlink(missing_ok=True)
