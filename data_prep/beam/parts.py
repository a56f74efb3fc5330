"""Parts: files of arrays that workers of one pipeline write, and workers of a later one read.

A part is `<name>.npz` and `<name>.json`: its facts, its size and the identity of the work, written last. Rows that
several workers need are pieces of one file, `<name>.pieces`, of which each worker reads its own by range: so no runner
has to hold the log. A part is
complete only with both, so that a killed worker leaves none that could be taken for whole. Equal work writes equal
parts, so that a part may be written twice, as by a worker that a runner repeats. `<name>.error` is the message of a
worker that found the input invalid.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import io
import json
import os
from typing import Any
import zipfile

from etils import epath
import numpy as np
import pyarrow as pa

from recjax.runtime import files as files_lib

Place = tuple[str, int, int]  # name of a part, and first and last byte of a piece


@dataclasses.dataclass(frozen=True)
class Work:
  """The folder of the parts of one preparation.

  Attributes:
    folder: its path. All workers must see it under this path.
    identity: digest of the inputs, the settings and the code.
  """

  folder: str
  identity: str

  def path(self, name: str, ending: str) -> epath.Path:
    return epath.Path(self.folder) / f'{name}.{ending}'

  def write(
    self, name: str, content: Mapping[str, np.ndarray] | bytes, facts: Mapping[str, Any]
  ) -> None:
    """Writes a part atomically: arrays, or pieces as `joined` returns them. The facts are JSON values."""
    ending = 'pieces' if isinstance(content, bytes) else 'npz'
    content = content if isinstance(content, bytes) else to_bytes(content)
    files_lib.write_whole(self.path(name, ending), content, is_durable=False)
    record = {'identity': self.identity, 'bytes': len(content), 'ending': ending}
    record['facts'] = dict(facts)
    files_lib.write_whole(self.path(name, 'json'), json.dumps(record), is_durable=False)

  def facts(self, name: str) -> dict[str, Any] | None:
    """Returns the facts of a complete part of this work; None for any other."""
    path = self.path(name, 'json')
    if not path.exists():
      return None
    record = json.loads(path.read_text())
    content = self.path(name, record['ending'])
    is_whole = (
      record['identity'] == self.identity
      and content.exists()
      and content.stat().length == record['bytes']
    )
    return record['facts'] if is_whole else None

  def are_complete(self, names: Sequence[str]) -> bool:
    """Returns whether all these parts are complete."""
    return all(self.facts(name) is not None for name in names)

  def need(self, name: str) -> dict[str, Any]:
    """Returns the facts of a part that must be complete.

    Raises:
      ValueError: it is not.
    """
    facts = self.facts(name)
    if facts is None:
      raise ValueError(
        f'{self.path(name, "json")} must be complete after its pipeline; it is missing or incomplete. All workers '
        'must see --config.data.prepared_dir under this path, as a shared folder or a bucket. Run the command again'
      )
    return facts

  def read(self, name: str, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a part; with `only`, those of these names that it has.

    Raises:
      ValueError: the file is damaged.
    """
    path = self.path(name, 'npz')
    try:
      with path.open('rb') as stream, np.load(stream, allow_pickle=False) as members:
        return {key: members[key] for key in members.files if only is None or key in only}
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
      raise _damaged(path, error) from None

  def places(self, names: Iterable[str], count: int) -> list[list['Place']]:
    """Returns the places of the pieces with each of the numbers 0 … `count` - 1, in the order of the parts."""
    found: list[list[Place]] = [[] for _ in range(count)]
    for name in names:
      for number, start, stop in self.need(name)['pieces']:
        found[number].append((name, start, stop))
    return found

  def pieces(self, places: Iterable['Place']) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of pieces, each read by range.

    Raises:
      ValueError: a file is damaged.
    """
    for name, start, stop in places:
      path = self.path(name, 'pieces')
      try:
        yield from_bytes(files_lib.read_range(path, start, stop))
      except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise _damaged(path, error) from None

  def fail(self, name: str, error: Exception) -> None:
    """Records the message of a worker."""
    text = json.dumps({'kind': type(error).__name__, 'message': str(error)})
    files_lib.write_whole(self.path(name, 'error'), text, is_durable=False)

  def failures(self) -> list[epath.Path]:
    """Returns the files of `fail`, sorted by name."""
    return sorted(
      path for path in epath.Path(self.folder).iterdir() if path.name.endswith('.error')
    )


def _damaged(path: epath.Path, error: Exception) -> ValueError:
  return ValueError(
    f'{path} must be a complete part; {error}. Remove {path.parent} and run the command again'
  )


def joined(pieces: Iterable[tuple[int, Mapping[str, np.ndarray]]]) -> tuple[bytes, dict[str, Any]]:
  """Returns the content and the facts of a part that holds pieces: arrays by a number."""
  contents, places, start = [], [], 0
  for number, arrays in pieces:
    contents.append(to_bytes(arrays))
    stop = start + len(contents[-1])
    places.append([number, start, stop])
    start = stop
  return b''.join(contents), {'pieces': places}


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Returns arrays as the content of an .npz file, whose members have checksums."""
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


def from_bytes(content: bytes) -> dict[str, np.ndarray]:
  """The inverse of `to_bytes`."""
  with np.load(io.BytesIO(content), allow_pickle=False) as members:
    return dict(members)


def text_arrays(name: str, texts: pa.Array) -> dict[str, np.ndarray]:
  """Returns texts as the arrays `<name>.offsets` and `<name>.bytes`."""
  texts = pa.array(texts, pa.large_string()) if not isinstance(texts, pa.Array) else texts
  texts = pa.concat_arrays([texts.cast(pa.large_string())])  # without an offset of a slice
  _, offsets, content = texts.buffers()
  count = len(texts)
  offsets_T = np.frombuffer(offsets, np.int64, count + 1) if offsets else np.zeros(1, np.int64)
  offsets_T = offsets_T[: count + 1]
  content_B = np.frombuffer(content, np.uint8) if content else np.zeros(0, np.uint8)
  return {
    f'{name}.offsets': offsets_T - offsets_T[0],
    f'{name}.bytes': content_B[offsets_T[0] : offsets_T[-1]],
  }


def texts_of(name: str, arrays: Mapping[str, np.ndarray]) -> pa.LargeStringArray:
  """The inverse of `text_arrays`."""
  offsets_T, content_B = arrays[f'{name}.offsets'], arrays[f'{name}.bytes']
  return pa.LargeStringArray.from_buffers(
    len(offsets_T) - 1, pa.py_buffer(offsets_T), pa.py_buffer(content_B)
  )


def folder(root: epath.Path, stage: str, digest: str) -> epath.Path:
  """Returns the folder of the parts; removes those of other logs, settings or code. The caller holds the lock."""
  found = root / f'.{stage}.beam-{digest}'
  for path in root.iterdir():
    if path.name.startswith(f'.{stage}.beam-') and path.name != found.name:
      path.rmtree()
  return found


def absolute(path: epath.Path) -> str:
  """Returns a path that does not depend on the folder in which a worker runs."""
  return os.path.abspath(path) if files_lib.is_local(path) else os.fspath(path)
