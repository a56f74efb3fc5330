"""The SID table: which semantic ID every item of the catalogue has."""

import dataclasses
import json

from etils import epath
import numpy as np

from recjax import config


@dataclasses.dataclass(frozen=True, eq=False)
class SidTable:
  """The semantic IDs of a catalogue, in level-local codes.

  Attributes:
    codes_IL: int32 `[I, L]`; row i is the semantic ID of item i.
    codes_per_level: how many codes each of the L levels has.
    quantizer: the name of what made the codes.
    deduplicated: the last level only tells apart items that share all codes before it, and so
      every row is unique. False: the quantizer's codes alone, items may share a SID.

  Raises:
    ValueError: the shapes disagree, a code is out of its level's range, or a de-duplicated table
      has two equal rows.
  """

  codes_IL: np.ndarray
  codes_per_level: tuple[int, ...]
  quantizer: str
  deduplicated: bool = True

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
    if self.deduplicated and (shared := len(codes) - len(np.unique(codes, axis=0))):
      raise ValueError(
        f'a SID table with a de-duplication level must have unique rows; {shared} rows repeat'
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
  def code_space_hash(self) -> str:
    """Binds a model to its codes: equal for tables that the same model can serve."""
    return config.digest([self.levels, list(self.codes_per_level), self.quantizer])

  def statistics(self) -> dict:
    """What the report says of the table, as JSON.

    Returns:
      items; unique_sids; colliding_items, collision_groups and largest_group: items that share the
      quantizer's codes (before de-duplication) with another, the groups that they form, and the
      size of the largest (1 without a collision); levels: for each level the number of codes, how
      many are used, and the perplexity of their use (the exponential of its entropy in nats).
    """
    quantized = self.codes_IL[:, :-1] if self.deduplicated else self.codes_IL
    sizes = _group_sizes(quantized)
    return {
      'items': self.num_items,
      'unique_sids': len(_group_sizes(self.codes_IL)),
      'colliding_items': int(sizes[sizes > 1].sum()),
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
      'deduplicated': self.deduplicated,
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
        description['deduplicated'],
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
  return np.unique(codes_IL, axis=0, return_counts=True)[1]


def _usage(codes_I: np.ndarray, size: int) -> dict:
  counts = np.bincount(codes_I, minlength=size)
  shares = counts[counts > 0] / max(counts.sum(), 1)
  perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
  return {'codes': size, 'used': len(shares), 'perplexity': round(perplexity, 3)}
