"""A prepared data set: the flat arrays of `data/<name>/`, memory-mapped."""

import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.data.vocabulary import Vocabulary
from recjax.runtime.files import digest
from recjax.sids import keywords as keywords_lib
from recjax.sids.table import SidTable

SPLITS = ('validation', 'test')
COLUMNS = ('times', 'ratings', 'events')  # what may be known of an interaction beside its item
EVENT_NAMES = 'events.json'
TIMES = 'times.json'


def _load(path: epath.Path) -> np.ndarray:
  return np.load(path, mmap_mode='r')


def _check_name(what: str, name: str, names: tuple[str, ...]) -> None:
  if name not in names:
    raise ValueError(f'{what} must be one of {", ".join(names)}; got {name!r}')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Interactions, catalogue and semantic IDs of one prepared folder.

  Attributes:
    folder: the prepared folder, and the folder of each stage in it.
    train: each user's items that are trained on, as item indices; under leave-one-out all but the last
      two, otherwise perhaps none.
    validation_items: int32, the target of every validation row: under leave-one-out `[U]`, each user's
      item before the last.
    test_items: int32, the target of every test row: under leave-one-out `[U]`, each user's last item.
    sids: the semantic IDs of the items.
  """

  folder: Prepared
  train: Sequences
  validation_items: np.ndarray
  test_items: np.ndarray
  sids: SidTable

  @classmethod
  def load(cls, folder: epath.PathLike | Prepared) -> 'Dataset':
    """Maps the arrays of a prepared folder; a plain path stands for one without variants of stages."""
    folder = Prepared.of(folder)
    log = folder / 'interactions'
    return cls(
      folder=folder,
      train=Sequences(_load(log / 'train_items.npy'), _load(log / 'train_offsets.npy')),
      validation_items=_load(log / 'validation_items.npy'),
      test_items=_load(log / 'test_items.npy'),
      sids=SidTable.load(folder / 'sids'),
    )

  def __reduce__(self):
    # A reading process maps the files itself; copies of the arrays would travel otherwise.
    return Dataset.load, (self.folder,)

  @property
  def num_users(self) -> int:
    return len(self.train)

  @functools.cached_property
  def train_times(self) -> np.ndarray:
    """int64, aligned with `train.values`; see `ticks_per_second`."""
    return self._log('train_times')

  @functools.cached_property
  def ticks_per_second(self) -> int:
    """Of all times; 0: they are an order and nothing else."""
    fields = json.loads((self.folder / 'interactions' / TIMES).read_text())
    return fields['ticks_per_second']

  @functools.cached_property
  def train_ratings(self) -> np.ndarray | None:
    """float32, aligned with `train.values`; None where the log has none."""
    return self._log('train_ratings')

  @functools.cached_property
  def train_events(self) -> np.ndarray | None:
    """int32 indices of `event_names`, aligned with `train.values`; None where the log has none."""
    return self._log('train_events')

  @functools.cached_property
  def event_names(self) -> list[str]:
    """The kinds of interactions; empty where the log has none."""
    path = self.folder / 'interactions' / EVENT_NAMES
    return json.loads(path.read_text()) if path.exists() else []

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

  @functools.cached_property
  def titles(self) -> Sequences:
    """The pieces of every item's title (of another text where it has none), without BOS or EOS."""
    texts = self.folder / 'texts'
    return Sequences(_load(texts / 'item_tokens.npy'), _load(texts / 'item_token_offsets.npy'))

  @functools.cached_property
  def keywords(self) -> list[dict[str, Any]] | None:
    """Token, description and keywords of every used SID token; None where they were not prepared."""
    path = self.folder / keywords_lib.FILE
    return keywords_lib.read(path, 'keywords') if path.exists() else None

  @functools.cached_property
  def collaborative(self) -> Sequences | None:
    """The items that each item occurs with, the strongest first; None where they were not prepared."""
    return self._relation('collaborative')

  @functools.cached_property
  def semantic(self) -> Sequences | None:
    """The items nearest to each item by text, the nearest first; None where they were not prepared."""
    return self._relation('semantic')

  def files_digest(self, stage: str, *names: str) -> str:
    """A hash of the files of a stage, or of some of them: equal where their bytes are."""
    held = self.manifest(stage)['files']
    return digest({name: held[name]['sha256'] for name in names or held})

  def manifest(self, stage: str) -> dict[str, Any]:
    """What the preparation wrote down of a stage: parameters, file hashes, summary."""
    return json.loads((self.folder / stage / 'manifest.json').read_text())

  @functools.cached_property
  def is_leave_one_out(self) -> bool:
    """Whether every user has one validation and one test row, after all that the user did before."""
    return self._log('test_history_offsets') is None

  def num_rows(self, split: str) -> int:
    """How many targets a split has; under leave-one-out one a user."""
    return len(self.targets(split))

  def targets(self, split: str) -> np.ndarray:
    """int32: the held-out item of every row of a split."""
    _check_name('split', split, SPLITS)
    return self.validation_items if split == 'validation' else self.test_items

  def histories_and_targets(self, split: str) -> tuple[Sequences, np.ndarray]:
    """What is known of every row of a split before its target, and the targets.

    The rows of leave-one-out are the users; the history of a test user includes the validation item.
    """
    targets = self.targets(split)
    if not self.is_leave_one_out:
      items, offsets = (self._log(f'{split}_history_{name}') for name in ('items', 'offsets'))
      return Sequences(items, offsets), targets
    if split == 'validation':
      return self.train, targets
    return self.train.append(self.validation_items), targets

  def of_histories(self, split: str, column: str) -> np.ndarray | None:
    """What else is known of the items of the histories of a split, one value an item.

    Args:
      split: validation or test.
      column: times, ratings or events.

    Returns:
      Flat, aligned with the values of `histories_and_targets(split)[0]`; None where it is not known.
    """
    _check_name('split', split, SPLITS)
    _check_name('column', column, COLUMNS)
    if not self.is_leave_one_out:
      return self._log(f'{split}_history_{column}')
    values = self._log(f'train_{column}')
    if values is None or split == 'validation':
      return values
    return np.insert(values, self.train.offsets[1:], self._log(f'validation_{column}'))

  def of_targets(self, split: str, column: str) -> np.ndarray | None:
    """The times, ratings or events (`column`) of the targets of a split; None where not known."""
    _check_name('split', split, SPLITS)
    _check_name('column', column, COLUMNS)
    return self._log(f'{split}_{column}')

  def counted_before(self, split: str) -> Sequences:
    """Sequences that were over before a split's targets: what may be counted to predict them.

    Under leave-one-out the histories; of other splits the training part alone, since the history of a
    row may hold the target of another one.
    """
    return self.histories_and_targets(split)[0] if self.is_leave_one_out else self.train

  def _relation(self, name: str) -> Sequences | None:
    items = self.folder / 'relations' / f'{name}_items.npy'
    offsets = self.folder / 'relations' / f'{name}_offsets.npy'
    return Sequences(_load(items), _load(offsets)) if items.exists() else None

  def _log(self, name: str) -> np.ndarray | None:
    path = self.folder / 'interactions' / f'{name}.npy'
    return _load(path) if path.exists() else None
