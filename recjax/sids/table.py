"""The SID table: the semantic ID of every item of the catalogue."""

from collections.abc import Sequence
import dataclasses
import functools
import json

from etils import epath
import numpy as np

from recjax.runtime.files import digest, replacing, write_whole
from recjax.schema.checks import check_choice
from recjax.sids import grouping
from recjax.sids.catalogue import Catalogue

CODES, DESCRIPTION = 'codes.npy', 'sids.json'  # the files of a table
COLLISIONS = ('deduplicate', 'sinkhorn', 'keep', 'none')


@dataclasses.dataclass(frozen=True, eq=False)
class SidTable:
  """The semantic IDs of a catalogue, in level-local codes.

  Attributes:
    codes_IL: int32 `[I, L]`; row i is the semantic ID of item i.
    codes_per_level: number of codes of each of the L levels.
    quantizer: the name of the quantizer that made the codes.
    collisions: how items with the same quantized codes are handled. 'deduplicate': an additional last
      level distinguishes them. 'sinkhorn': some items got other codes. In both cases every row is
      unique. 'keep': items may share a SID. 'none': every item was given a code of its own.
    codebooks: a hash of the fitted codebooks, or of the items that codes of items stand for. Empty for an imported
      table.

  Raises:
    ValueError: the shapes disagree, a code is out of range, or rows that must be unique repeat.
  """

  codes_IL: np.ndarray
  codes_per_level: tuple[int, ...]
  quantizer: str
  collisions: str = 'deduplicate'
  codebooks: str = ''

  def __post_init__(self):
    codes = np.asarray(self.codes_IL)
    if codes.ndim != 2 or codes.dtype != np.int32 or codes.shape[1] != len(self.codes_per_level):
      raise ValueError(
        f'SID codes must be int32 [items, {len(self.codes_per_level)} levels]; '
        f'got {codes.dtype} {list(codes.shape)}'
      )
    wrong = np.argwhere((codes < 0) | (codes >= np.array(self.codes_per_level)[None, :]))
    if len(wrong):
      item, level = wrong[0].tolist()
      raise ValueError(
        f'every code of level {level} must be in [0, {self.codes_per_level[level]}); '
        f'item {item} has {codes[item, level]}'
      )
    check_choice(self.collisions, COLLISIONS, 'sids.collisions')
    if self.collisions != 'keep' and (shared := len(codes) - len(_group_sizes(codes))):
      raise ValueError(
        f'a SID table whose collisions are resolved ({self.collisions}) must have unique rows; '
        f'{shared} rows repeat. Set --config.sids.collisions'
      )
    object.__setattr__(self, 'codes_IL', codes)
    object.__setattr__(self, 'codes_per_level', tuple(int(n) for n in self.codes_per_level))

  @classmethod
  def of_items(cls, item_ids: Sequence[str], codes: int) -> 'SidTable':
    """Returns the table of one level in which item i has code i.

    Args:
      item_ids: raw ids of the items, which give the codes their meaning.
      codes: number of codes, at least that of the items; new items may get the further ones.
    """
    codes_IL = np.arange(len(item_ids), dtype=np.int32)[:, None]
    return cls(codes_IL, (codes,), 'item', 'none', digest(list(item_ids)))

  @property
  def num_items(self) -> int:
    """Number of items (I)."""
    return self.codes_IL.shape[0]

  @property
  def levels(self) -> int:
    """Number of levels (L)."""
    return self.codes_IL.shape[1]

  @functools.cached_property
  def catalogue(self) -> Catalogue:
    """The items by their codes, for models with a row for every item."""
    return Catalogue(self.codes_IL, self.codes_per_level)

  @property
  def deduplicated(self) -> bool:
    """Whether the last level is a de-duplication level."""
    return self.collisions == 'deduplicate'

  @property
  def quantized_levels(self) -> int:
    """Number of levels of the quantizer: all except a de-duplication level."""
    return self.levels - self.deduplicated

  @property
  def code_space_hash(self) -> str:
    """A hash of the levels, the codes per level, the quantizer and its codebooks.

    A model can serve every table with the hash it was trained on. Other codebooks change the meaning of
    every code, even if the sizes agree.
    """
    fitted = [self.codebooks] if self.codebooks else []
    return digest([self.levels, list(self.codes_per_level), self.quantizer, *fitted])

  @property
  def sharing_items(self) -> int:
    """Number of items that share their SID with another item. 0 unless collisions are kept."""
    return 0 if self.collisions != 'keep' else _in_groups(_group_sizes(self.codes_IL))

  @property
  def sid_I(self) -> np.ndarray:
    """int64 `[I]`, the number of each item's SID among the distinct ones, in lexicographic order."""
    return grouping.groups(self.codes_IL)[0]

  def statistics(self) -> dict:
    """Computes the table's statistics for the report.

    Returns:
      JSON with `items`, `unique_sids` and `items_sharing_a_sid` (items whose SID is not unique).
      `colliding_items`, `collision_groups` and `largest_group` count items that share their quantized
      codes, before de-duplication; without a collision the largest group has one item. `levels` holds
      each level's number of `codes`, of `used` codes, and the `perplexity` of their use (the
      exponential of the entropy in nats).
    """
    sizes = _group_sizes(self.codes_IL[:, : self.quantized_levels])
    return {
      'items': self.num_items,
      'unique_sids': len(_group_sizes(self.codes_IL)),
      'items_sharing_a_sid': self.sharing_items,
      'colliding_items': _in_groups(sizes),
      'collision_groups': int((sizes > 1).sum()),
      'largest_group': int(sizes.max(initial=0)),
      'levels': [
        _usage(self.codes_IL[:, level], size) for level, size in enumerate(self.codes_per_level)
      ],
    }

  def save(self, folder: epath.PathLike) -> None:
    """Writes codes.npy, then sids.json, each atomically."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CODES, 'wb') as f:
      np.save(f, self.codes_IL)
    description = {
      'levels': self.levels,
      'codes_per_level': list(self.codes_per_level),
      'quantizer': self.quantizer,
      'collisions': self.collisions,
      'codebooks': self.codebooks,
      'code_space_hash': self.code_space_hash,
      'statistics': self.statistics(),
    }
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=2) + '\n')

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'SidTable':
    """Reads the files of `save`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the two files do not belong together.
    """
    folder = epath.Path(folder)
    description = json.loads((folder / DESCRIPTION).read_text())
    with (folder / CODES).open('rb') as f:
      codes = np.load(f)
    try:
      table = cls(
        codes,
        tuple(description['codes_per_level']),
        description['quantizer'],
        description['collisions'],
        description['codebooks'],
      )
    except (KeyError, ValueError) as error:
      raise ValueError(f'{folder} does not hold a SID table: {error}') from error
    if table.code_space_hash != description.get('code_space_hash'):
      raise ValueError(
        f'{folder / DESCRIPTION} must hold the code_space_hash of its own fields, '
        f'{table.code_space_hash}; got {description.get("code_space_hash")}'
      )
    return table


def count_distinct(codes_IL: np.ndarray) -> int:
  """Returns the number of distinct rows."""
  return len(_group_sizes(codes_IL))


def _group_sizes(codes_IL: np.ndarray) -> np.ndarray:
  """Returns the number of items of each distinct row; the rows are in lexicographic order."""
  order, is_first = grouping.ordered(codes_IL)
  return np.diff(np.flatnonzero(is_first), append=len(order))


def _in_groups(sizes: np.ndarray) -> int:
  """Returns the number of items in groups of two or more."""
  return int(sizes[sizes > 1].sum())


def _usage(codes_I: np.ndarray, size: int) -> dict:
  """Returns the statistics of one level; see `SidTable.statistics`."""
  counts = np.bincount(codes_I, minlength=size)
  shares = counts[counts > 0] / max(counts.sum(), 1)
  perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
  return {'codes': size, 'used': len(shares), 'perplexity': round(perplexity, 3)}
