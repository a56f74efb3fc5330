"""Encodes `tf.train.Example`s, many at a time: the same bytes as protobuf's deterministic ones, in a fifth of its time.

A field with numbers is packed: the numbers of all examples are encoded as one array, which is cut at the examples.
The bytes before them depend on their length alone. Formats: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
from typing import NamedTuple

import numpy as np

from recjax.data.sequences import offsets_of

_FIELDS = {'bytes_list': 1, 'float_list': 2, 'int64_list': 3}  # of tf.train.Feature


class Values(NamedTuple):
  """The values of one feature in consecutive examples, encoded.

  Attributes:
    content: what a list of values holds, of all examples one after another.
    ends: `content[ends[n]:ends[n + 1]]` belongs to example n; ints `[n + 1]`.
  """

  content: bytes
  ends: np.ndarray


def integers(values: np.ndarray, offsets: np.ndarray) -> Values:
  """Returns integers as values; example n has those from `offsets[n]` to `offsets[n + 1]`."""
  content, ends = _varints(np.asarray(values, np.int64).view(np.uint64))
  return Values(content.tobytes(), ends[offsets])


def floats(values: np.ndarray, offsets: np.ndarray) -> Values:
  """Returns numbers of float32 as values; see `integers`."""
  return Values(np.asarray(values, '<f4').tobytes(), 4 * np.asarray(offsets))


def texts(values: Sequence[bytes], offsets: np.ndarray) -> Values:
  """Returns texts as values; see `integers`."""
  parts = [b'\n' + _varint(len(value)) + value for value in values]
  return Values(b''.join(parts), offsets_of([len(part) for part in parts])[offsets])


def encode(features: Sequence[tuple[str, str, Values]]) -> Iterator[bytes]:
  """Yields the records of consecutive examples.

  Args:
    features: name, field of `tf.train.Feature` ('bytes_list', 'float_list', 'int64_list') and values.
  """
  pieces = []
  # Deterministic protobuf sorts by name; of two names that begin alike, the longer one comes first.
  for name, field, values in sorted(features, key=lambda feature: feature[0].encode() + b'\xff'):
    before = functools.partial(_before, name.encode(), field)
    pieces.append(_pieces(before, values))
  for parts in zip(*pieces, strict=True):
    record = b''.join(itertools.chain.from_iterable(parts))
    yield _header(b'\n', len(record)) + record


def _pieces(before: functools.partial, values: Values) -> Iterator[tuple[bytes, bytes]]:
  known: dict[int, bytes] = {}  # length of the content → the bytes before it
  content = values.content
  for start, end in itertools.pairwise(values.ends.tolist()):
    length = end - start
    if length not in known:
      known[length] = before(length)
    yield known[length], content[start:end]


def _before(name: bytes, field: str, length: int) -> bytes:
  """The bytes of a feature before its values, which take `length` bytes."""
  number = bytes([_FIELDS[field] << 3 | 2])
  packed = b''
  if length and field != 'bytes_list':
    packed = _header(b'\n', length)
  values = _header(number, len(packed) + length) + packed
  feature = _header(b'\x12', len(values) + length) + values
  key = _header(b'\n', len(name)) + name
  return _header(b'\n', len(key) + len(feature) + length) + key + feature


def _header(tag: bytes, length: int) -> bytes:
  return tag + _varint(length)


def _varint(value: int) -> bytes:
  found = bytearray()
  while value >= 0x80:
    found.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*found, value])


def _varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns numbers of uint64 as varints, uint8, and the end of each, with 0 before them."""
  widths = np.ones(len(values), np.int64)
  for shift in range(7, 64, 7):
    is_wider = values >= np.uint64(1) << np.uint64(shift)
    if not is_wider.any():
      break
    widths += is_wider
  ends = offsets_of(widths)
  found = np.empty(ends[-1], np.uint8)
  for place in range(int(widths.max(initial=0))):
    chosen = widths > place
    digits = (values[chosen] >> np.uint64(7 * place)) & np.uint64(0x7F)
    more = np.where(widths[chosen] > place + 1, 0x80, 0).astype(np.uint8)
    found[ends[:-1][chosen] + place] = digits.astype(np.uint8) | more
  return found, ends
