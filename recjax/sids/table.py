"""The SID table: which semantic ID every item of the catalogue has."""

import dataclasses
import json

from etils import epath
import numpy as np

from recjax.runtime.files import digest
from recjax.schema.checks import check_choice

COLLISIONS = ('deduplicate', 'sinkhorn', 'keep')


@dataclasses.dataclass(frozen=True, eq=False)
class SidTable:
  """The semantic IDs of a catalogue, in level-local codes.

  Attributes:
    codes_IL: int32 `[I, L]`; row i is the semantic ID of item i.
    codes_per_level: how many codes each of the L levels has.
    quantizer: the name of what made the codes.
    collisions: what became of items with the same quantized codes. 'deduplicate': the last level
      only tells them apart. 'sinkhorn': some got another code, there is no level more. Either way
      every row is unique. 'keep': items may share a SID.
    codebooks: a hash of the fitted codebooks that gave the codes their meaning; empty where there
      are none, as for an imported table.

  Raises:
    ValueError: the shapes disagree, a code is out of its level's range, or two rows are equal where
      they must be unique.
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

  @property
  def num_items(self) -> int:
    return self.codes_IL.shape[0]

  @property
  def levels(self) -> int:
    return self.codes_IL.shape[1]

  @property
  def deduplicated(self) -> bool:
    """Whether the last level only tells apart items that share all codes before it."""
    return self.collisions == 'deduplicate'

  @property
  def quantized_levels(self) -> int:
    """Levels whose codes mean something: all but one for de-duplication."""
    return self.levels - self.deduplicated

  @property
  def code_space_hash(self) -> str:
    """Binds a model to its codes: equal for tables that the same model can serve.

    That is: of the same levels, codes a level and quantizer, and where codebooks were fitted, of the
    same ones. Other codebooks give every code another meaning, whatever their sizes.
    """
    fitted = [self.codebooks] if self.codebooks else []
    return digest([self.levels, list(self.codes_per_level), self.quantizer, *fitted])

  @property
  def sharing_items(self) -> int:
    """How many items share their whole SID with another; none unless collisions are kept."""
    return 0 if self.collisions != 'keep' else _in_groups(_group_sizes(self.codes_IL))

  def statistics(self) -> dict:
    """What the report says of the table, as JSON.

    Returns:
      items; unique_sids; items_sharing_a_sid: those that not even the whole SID tells apart;
      colliding_items, collision_groups and largest_group: items that share the quantizer's codes
      (before de-duplication) with another, the groups that they form, and the size of the largest
      (1 without a collision); levels: for each level the number of codes, how many are used, and the
      perplexity of their use (the exponential of its entropy in nats).
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
    """Writes codes.npy, then sids.json; each appears whole or not at all."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / '.codes.npy.partial'
    with partial.open('wb') as f:
      np.save(f, self.codes_IL)
    partial.replace(folder / 'codes.npy')
    description = {
      'levels': self.levels,
      'codes_per_level': list(self.codes_per_level),
      'quantizer': self.quantizer,
      'collisions': self.collisions,
      'codebooks': self.codebooks,
      'code_space_hash': self.code_space_hash,
      'statistics': self.statistics(),
    }
    partial = folder / '.sids.json.partial'
    partial.write_text(json.dumps(description, indent=2) + '\n')
    partial.replace(folder / 'sids.json')

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'SidTable':
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the two files do not belong together.
    """
    folder = epath.Path(folder)
    description = json.loads((folder / 'sids.json').read_text())
    with (folder / 'codes.npy').open('rb') as f:
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
        f'{folder / "sids.json"} must hold the code_space_hash of its own fields, '
        f'{table.code_space_hash}; got {description.get("code_space_hash")}'
      )
    return table


def _group_sizes(codes_IL: np.ndarray) -> np.ndarray:
  """How many items each distinct row has, the rows in lexicographic order."""
  ordered = codes_IL[np.lexsort(codes_IL.T[::-1])]  # np.unique(axis=0) takes three times as long
  is_first = np.ones(len(ordered), bool)
  is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  return np.diff(np.flatnonzero(is_first), append=len(ordered))


def _in_groups(sizes: np.ndarray) -> int:
  return int(sizes[sizes > 1].sum())


def _usage(codes_I: np.ndarray, size: int) -> dict:
  counts = np.bincount(codes_I, minlength=size)
  shares = counts[counts > 0] / max(counts.sum(), 1)
  perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
  return {'codes': size, 'used': len(shares), 'perplexity': round(perplexity, 3)}
