"""A prepared data set: the flat arrays of `data/<name>/`, memory-mapped."""

import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from recjax import config as config_lib
from recjax.data.sequences import Sequences
from recjax.data.vocabulary import Vocabulary
from recjax.sids.table import SidTable

SPLITS = ('validation', 'test')


def prepared_dir(config: config_lib.Config) -> epath.Path:
  """Where the prepared data lie: `data.prepared_dir`, or data/<name>.

  A pretrained model brings its tokenizer, so its data have a folder of their own: data/<name>-<model>.
  """
  if config.data.prepared_dir is not None:
    return epath.Path(config.data.prepared_dir)
  pretrained = config.model.pretrained
  suffix = f'-{epath.Path(pretrained).name}' if pretrained is not None else ''
  return epath.Path(f'data/{config.data.name}{suffix}')


def _load(path: epath.Path) -> np.ndarray:
  return np.load(path, mmap_mode='r')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Interactions, catalogue and semantic IDs of one prepared folder.

  Attributes:
    folder: the prepared folder.
    train: each user's items without the last two (leave-one-out), as item indices.
    validation_items: int32 `[U]`, each user's item before the last.
    test_items: int32 `[U]`, each user's last item.
    sids: the semantic IDs of the items.
  """

  folder: epath.Path
  train: Sequences
  validation_items: np.ndarray
  test_items: np.ndarray
  sids: SidTable

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Dataset':
    """Maps the arrays of a prepared folder; nothing large is read."""
    folder = epath.Path(folder)
    log = folder / 'interactions'
    return cls(
      folder=folder,
      train=Sequences(_load(log / 'train_items.npy'), _load(log / 'train_offsets.npy')),
      validation_items=_load(log / 'validation_items.npy'),
      test_items=_load(log / 'test_items.npy'),
      sids=SidTable.load(folder / 'sids'),
    )

  @property
  def num_users(self) -> int:
    return len(self.train)

  @property
  def num_items(self) -> int:
    return len(self.sids.codes_IL)

  @functools.cached_property
  def items(self) -> list[dict[str, Any]]:
    """The catalogue in index order: `id`, `text` and whatever the source knows."""
    lines = (self.folder / 'interactions' / 'items.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    return Vocabulary(self.folder / 'tokenizer', self.sids.codes_per_level)

  def manifest(self, stage: str) -> dict[str, Any]:
    """What the preparation wrote down of a stage: parameters, file hashes, summary."""
    return json.loads((self.folder / stage / 'manifest.json').read_text())

  def histories_and_targets(self, split: str) -> tuple[Sequences, np.ndarray]:
    """What is known of every user before the held-out item of a split, and that item.

    The history of a test user includes the validation item (leave-one-out).
    """
    if split == 'validation':
      return self.train, self.validation_items
    if split == 'test':
      return self.train.append(self.validation_items), self.test_items
    raise ValueError(f'split must be one of {", ".join(SPLITS)}; got {split!r}')
