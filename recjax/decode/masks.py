"""Named sub-catalogues, such as the items in stock: packed bits over items, and expressions that combine them.

The bit of item i is bit i % 32 of word i // 32. An expression such as `in_stock & ~adult` combines whole words on the
host, so it costs a thirty-second of an operation an item. `recjax.decode.mask_slots` has the masks on the devices.
"""

from collections.abc import Collection, Mapping, Sequence
import functools
import hashlib
import logging
import re
from typing import NamedTuple

from etils import epath
import numpy as np

from recjax.runtime.files import existing
from recjax.schema.names import question

log = logging.getLogger(__name__)

Within = str | Collection  # a name, an expression of names, or item ids


class Mask(NamedTuple):
  """A set of items.

  Attributes:
    bits_W: uint32, the packed bits.
    key: a digest of the bits; equal masks have equal keys.
  """

  bits_W: np.ndarray
  key: bytes


LONGEST = 10_000  # characters of an expression
_SHOWN = 8  # names in a message
_NONE_LEFT = 'exclude must leave at least one item of the catalogue; it leaves none'
_KEPT = 64  # expressions whose masks are kept
_TOKEN = re.compile(r'\s*([&|~()]|[^\s&|~()]+)')
_STRENGTH = {'~': 3, '&': 2, '|': 1, '(': 0}


def words(items: int) -> int:
  """Returns the number of 32-bit words of a mask."""
  return -(-items // 32)


def pack(items: np.ndarray, size: int) -> np.ndarray:
  """Returns the mask of item indices among `size` items, uint32 `[words(size)]`."""
  is_in = np.zeros(32 * words(size), bool)
  is_in[items] = True
  return np.packbits(is_in, bitorder='little').view('<u4').astype(np.uint32, copy=False)


def unpacked(bits_W: np.ndarray, num_items: int) -> np.ndarray:
  """Inverts `pack` for a catalogue of `num_items`: bool `[num_items]`."""
  bits = np.ascontiguousarray(bits_W, '<u4').view(np.uint8)
  return np.unpackbits(bits, count=num_items, bitorder='little').view(bool)


def contains(bits_W: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Returns whether items are in a mask, bool of the shape of `items`."""
  return (bits_W[items >> 5] >> (items & 31).astype(np.uint32) & 1).astype(bool)


class Masks:
  """The named masks of a catalogue.

  Attributes:
    names: their names, sorted.
    all: the mask of all items.
  """

  def __init__(
    self,
    index: Mapping[str, int],
    named: Mapping[str, np.ndarray] | None = None,
  ):
    """Packs the masks.

    Args:
      index: the item ids, with their indices.
      named: item indices of every mask by its name. None: no mask has a name.

    Raises:
      ValueError: a name holds an operator or a space.
    """
    self._index, self._size = index, len(index)
    for name in named or {}:
      if not re.fullmatch(_TOKEN.pattern, name) or name.strip() != name or name in '&|~()':
        raise ValueError(f'a name of a mask must have no space and none of & | ~ ( ); got {name!r}')
    self._bits = {name: pack(items, self._size) for name, items in sorted((named or {}).items())}
    self.names = tuple(self._bits)
    self.all = _mask(pack(np.arange(len(index)), self._size))
    self._of_expression = functools.lru_cache(_KEPT)(self._checked)

  @classmethod
  def load(cls, folder: epath.PathLike, index: Mapping[str, int]) -> 'Masks':
    """Reads a folder of masks: `NAME.txt` holds the item ids of the mask NAME, one a line.

    Ids that are not in the catalogue are left out, with a warning. A file may be empty.

    Raises:
      OSError: the folder does not exist.
      ValueError: it has no such file; a file is not UTF-8, or none of its ids is in the catalogue; see also `Masks`.
    """
    folder = existing(folder, '--masks', 'folder')
    paths = sorted(
      path for path in folder.iterdir() if path.suffix == '.txt' and path.name[0] != '.'
    )
    if not paths:
      raise ValueError(
        f'{folder} must hold the masks as files NAME.txt with one item id a line; it has none. Set --masks'
      )
    return cls(index, {path.stem: _read(path, index) for path in paths})

  def mask(self, within: Within) -> Mask:
    """Returns the items of a name, of an expression, or of a collection of ids.

    An expression combines names by `~` (not), `&` (and), `|` (or) and parentheses; `~` binds closest, then `&`. Ids of
    a collection that are not in the catalogue have no effect.

    Raises:
      ValueError: a name is unknown, the expression is malformed, or no item is left.
    """
    if isinstance(within, str):
      return self._of_expression(within)
    if not isinstance(within, Collection) or isinstance(within, bytes | Mapping):
      raise ValueError(
        f'within must be an expression or a collection of item ids; got {within!r:.80}'
      )
    places = (self._index.get(id_ if isinstance(id_, str) else str(id_)) for id_ in within)
    items = np.array([i for i in places if i is not None], np.int64)
    return _some(pack(items, self._size), f'none of its {len(within)} ids is in it')

  def without(self, mask: Mask | None, items: np.ndarray) -> Mask:
    """Returns a mask, None: all items, without some items.

    Raises:
      ValueError: no item is left.
    """
    bits_W = (self.all if mask is None else mask).bits_W & ~pack(items, self._size)
    if not bits_W.any():
      raise ValueError(_NONE_LEFT)
    return _mask(bits_W)

  def check_left(self, mask: Mask | None, items: np.ndarray) -> None:
    """Raises the ValueError of `without`, and makes no mask."""
    bits_W = (self.all if mask is None else mask).bits_W
    if contains(bits_W, np.unique(items)).sum() == np.bitwise_count(bits_W).sum():
      raise ValueError(_NONE_LEFT)

  def moved(
    self, excluded: Sequence[np.ndarray], masks: Sequence[Mask | None] | None, most: int
  ) -> tuple[list[np.ndarray], Sequence[Mask | None] | None]:
    """Returns excluded items and masks of rows; items of rows that exclude more than `most` move into the mask."""
    excluded = [items if len(items) <= most else np.unique(items) for items in excluded]
    if all(len(items) <= most for items in excluded):
      return excluded, masks
    masks = [None] * len(excluded) if masks is None else list(masks)
    for row, items in enumerate(excluded):
      if len(items) > most:
        bits_W = (self.all if masks[row] is None else masks[row]).bits_W
        masks[row], excluded[row] = _mask(bits_W & ~pack(items, self._size)), items[:0]
    return excluded, masks

  def _checked(self, text: str) -> Mask:
    return _some(self._evaluate(text) & self.all.bits_W, f'{_short(text)} leaves none')

  def _evaluate(self, text: str) -> np.ndarray:
    """Evaluates an expression by operator precedence (Dijkstra's shunting yard), without recursion."""
    if len(text) > LONGEST:
      raise ValueError(f'within must have at most {LONGEST:,} characters; got {len(text):,}')
    values, operators, at, awaits_value = [], [], 0, True

    def apply() -> None:
      operator, right = operators.pop(), values.pop()
      if operator == '~':
        values.append(~right)
      else:
        left = values.pop()
        values.append(left & right if operator == '&' else left | right)

    end = len(text.rstrip())
    while at < end:
      found = _TOKEN.match(text, at)
      token, place, at = found[1], found.start(1), found.end()
      if awaits_value != (token not in ('&', '|', ')')):
        raise ValueError(_malformed(text, awaits_value, f'{token!r} at position {place + 1}'))
      if token in ('~', '('):
        operators.append(token)
      elif token in ('&', '|'):
        while operators and _STRENGTH[operators[-1]] >= _STRENGTH[token]:
          apply()
        operators.append(token)
        awaits_value = True
      elif token == ')':
        while operators and operators[-1] != '(':
          apply()
        if not operators:
          raise ValueError(_malformed(text, False, f"')' at position {place + 1} without a '('"))
        operators.pop()
      else:
        values.append(self._named(token))
        awaits_value = False
    if awaits_value:
      raise ValueError(_malformed(text, True, 'its end'))
    while operators:
      if operators[-1] == '(':
        raise ValueError(_malformed(text, False, "its end, and a '(' is open"))
      apply()
    return values[0]

  def _named(self, name: str) -> np.ndarray:
    if name not in self._bits:
      shown = ', '.join(self.names[:_SHOWN]) + (', …' if len(self.names) > _SHOWN else '')
      known = (
        f'must name masks of this catalogue ({shown})'
        if shown
        else 'needs masks, and none are loaded'
      )
      raise ValueError(f'within {known}; got {_short(name)}{question(name, self.names)}')
    return self._bits[name]


def _mask(bits_W: np.ndarray) -> Mask:
  return Mask(bits_W, hashlib.blake2b(bits_W, digest_size=16).digest())


def _some(bits_W: np.ndarray, otherwise: str) -> Mask:
  if not bits_W.any():
    raise ValueError(f'within must leave at least one item of the catalogue; {otherwise}')
  return _mask(bits_W)


def _malformed(text: str, awaits_value: bool, got: str) -> str:
  wanted = 'a name, ~ or (' if awaits_value else '&, | or )'
  return f"within must be an expression such as 'in_stock & ~adult'; {_short(text)} needs {wanted}, and has {got}"


def _short(text: str) -> str:
  return repr(text if len(text) <= 60 else f'{text[:59]}…')


def _read(path: epath.Path, index: Mapping[str, int]) -> np.ndarray:
  """Returns the indices of the items of a file, int64."""
  try:
    lines = path.read_bytes().decode('utf-8-sig').replace('\r\n', '\n').split('\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} must be UTF-8 text with one item id a line; {error}') from error
  ids = {line.strip() for line in lines} - {''}
  items = np.array([index[item] for item in ids if item in index], np.int64)
  if len(items) < len(ids):
    absent = f'{len(ids) - len(items)} of its {len(ids)} ids, such as {min(ids - index.keys())!r}'
    if not len(items):
      raise ValueError(
        f'{path} must hold item ids of the catalogue, one a line; {absent}, are not in it'
      )
    log.warning('mask %s: left out %s: not in the catalogue', path.stem, absent)
  return items
