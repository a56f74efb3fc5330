"""A prepared data set: the memory-mapped arrays of a prepared folder."""

import dataclasses
import functools
import json
from typing import Any, ClassVar, Self

from etils import epath
import numpy as np

from recjax.data import arrays
from recjax.data.prepared import SPLITS, Prepared
from recjax.data.sequences import Sequences
from recjax.data.vocabulary import Vocabulary
from recjax.runtime.files import digest
from recjax.sids import keywords as keywords_lib
from recjax.sids import quality as quality_lib
from recjax.sids.table import DESCRIPTION, SidTable

# Columns of the log beside user and item.
COLUMNS = ('times', 'ratings', 'events')
EVENT_NAMES = 'events.json'
CONTEXT_EVENTS = 'context_events.json'  # names of the kinds that are never targets
TIMES = 'times.json'
STAGES = (
  'interactions',
  'sids',
  'tokenizer',
  'texts',
  'relations',
  'keywords',
  'text_embeddings',  # its manifest only; `recjax.decode.lookups` reads the vectors
)  # stages that a data set reads


def _check_name(kind: str, name: str, names: tuple[str, ...]) -> None:
  if name not in names:
    raise ValueError(f'{kind} must be one of {", ".join(names)}; got {name!r}')


def _json(path: epath.Path) -> Any:
  """Returns the content of a JSON file; None if the file does not exist."""
  return json.loads(path.read_text()) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Log:
  """Interactions and catalogue of one prepared folder, of which only the stage `interactions` must exist.

  Arrays of the log in a bucket are read by range; see `recjax.data.arrays`.
  `load` maps the arrays and reads the small files. Optional columns and the catalogue are read at their first
  use. If their stage was prepared again in the meantime, that use raises a ValueError.

  Attributes:
    folder: the prepared folder with the folder of each stage.
    train: each user's training items, as item indices. Under leave-one-out all but the last two; under
      other splits a user may have none.
    validation_items: int32, the target of every validation row. Under leave-one-out `[U]`: each user's
      item before the last.
    test_items: int32, the target of every test row. Under leave-one-out `[U]`: each user's last item.
  """

  # Small files that `load` reads: a report must describe the data that the run used.
  _READ_AT_LOAD: ClassVar = ('_manifests', 'statistics')

  folder: Prepared
  train: Sequences
  validation_items: np.ndarray
  test_items: np.ndarray

  @classmethod
  def load(cls, folder: epath.PathLike | Prepared) -> Self:
    """Maps the arrays of a prepared folder and reads its small files; no large file is read.

    Args:
      folder: a plain path stands for a folder whose stages have no variants.
    """
    loaded = cls(**cls._mapped(Prepared.of(folder)))
    for name in cls._READ_AT_LOAD:
      getattr(loaded, name)
    return loaded

  @classmethod
  def _mapped(cls, folder: Prepared) -> dict[str, Any]:
    log = folder / 'interactions'
    return {
      'folder': folder,
      'train': Sequences(*(arrays.load_log(log / f'train_{x}.npy') for x in ('items', 'offsets'))),
      'validation_items': arrays.load_log(log / 'validation_items.npy'),
      'test_items': arrays.load_log(log / 'test_items.npy'),
    }

  def __reduce__(self):
    # A reader process maps the files itself. Pickling would copy the arrays.
    return type(self).load, (self.folder,)

  # --- records of the preparation

  @functools.cached_property
  def _manifests(self) -> dict[str, Any]:
    return {stage: _json(self.folder / stage / 'manifest.json') for stage in STAGES}

  def manifest(self, stage: str) -> dict[str, Any]:
    """Returns the parameters, file hashes and summary that the preparation recorded for a stage."""
    return self._manifests[stage]

  def files_digest(self, stage: str, *names: str) -> str:
    """Returns a hash of a stage's files, or of the named ones. Equal files have equal hashes."""
    files = self.manifest(stage)['files']
    return digest({name: files[name]['sha256'] for name in names or files})

  @functools.cached_property
  def statistics(self) -> dict[str, Any] | None:
    """Users, items, interactions and other statistics of the log."""
    return _json(self.folder / 'interactions' / 'statistics.json')

  def _check_unchanged(self, stage: str) -> None:
    """Raises a ValueError if a stage was prepared again after this data set was loaded."""
    loaded = self._manifests[stage]
    if loaded is not None and loaded != _json(self.folder / stage / 'manifest.json'):
      raise ValueError(
        f'{self.folder / stage} must not change while it is used; it was prepared again since this '
        'process started. Start again, or give each experiment its own --config.data.prepared_dir'
      )

  # --- the log

  @property
  def num_users(self) -> int:
    return len(self.train)

  @functools.cached_property
  def train_times(self) -> np.ndarray:
    """int64, aligned with `train.values`; see `ticks_per_second`."""
    return self.column('train_times')

  @functools.cached_property
  def ticks_per_second(self) -> int:
    """The unit of all times. 0: times give only the order of interactions."""
    fields = json.loads((self.folder / 'interactions' / TIMES).read_text())
    return fields['ticks_per_second']

  @functools.cached_property
  def train_ratings(self) -> np.ndarray | None:
    """float32, aligned with `train.values`. None if the log has no ratings."""
    return self.column('train_ratings')

  @functools.cached_property
  def train_events(self) -> np.ndarray | None:
    """int32 indices into `event_names`, aligned with `train.values`. None if the log has no events."""
    return self.column('train_events')

  @functools.cached_property
  def event_names(self) -> list[str]:
    """The names of the kinds of interactions. Empty if the log has no events."""
    return _json(self.folder / 'interactions' / EVENT_NAMES) or []

  @functools.cached_property
  def target_events(self) -> np.ndarray | None:
    """bool, which of `event_names` may be targets. None: all; the others are context of histories alone."""
    names = _json(self.folder / 'interactions' / CONTEXT_EVENTS)
    return None if names is None else np.array([name not in names for name in self.event_names])

  @functools.cached_property
  def train_is_target(self) -> np.ndarray | None:
    """bool, aligned with `train.values`: the interactions that may be targets. None: all of them."""
    return None if self.target_events is None else self.target_events[self.train_events]

  def column(self, name: str) -> np.ndarray | None:
    """Returns an array of the stage by the name of its file, such as `test_times`. None if there is none."""
    self._check_unchanged('interactions')
    path = self.folder / 'interactions' / f'{name}.npy'
    return arrays.load_log(path) if path.exists() else None

  def user_ids(self) -> list[str]:
    """Reads the raw id of every user; without the file of raw ids, the number of a user stands for its id."""
    ids = _json(self.folder / 'interactions' / 'users.json')
    return list(map(str, range(self.num_users))) if ids is None else ids

  # --- the catalogue

  @property
  def num_items(self) -> int:
    return self.statistics['items']

  @functools.cached_property
  def items(self) -> list[dict[str, Any]]:
    """The catalogue in index order: `id`, `text` and the fields of the source."""
    self._check_unchanged('interactions')
    lines = (self.folder / 'interactions' / 'items.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  # --- held-out rows

  @functools.cached_property
  def is_leave_one_out(self) -> bool:
    """Whether the rows are the users and no history is stored: each user has one target after all other items."""
    return self.column('test_history_offsets') is None

  def num_rows(self, split: str) -> int:
    """Returns the number of targets of a split. Under leave-one-out every user has one."""
    return len(self.targets(split))

  def row_users(self, split: str) -> np.ndarray:
    """Returns the user of every row of a split, int `[rows]`. Under leave-one-out the rows are the users."""
    users = self.column(f'{split}_users')
    return np.arange(self.num_rows(split)) if users is None else users

  def targets(self, split: str) -> np.ndarray:
    """Returns the held-out item of every row of a split, int32."""
    _check_name('split', split, SPLITS)
    return np.asarray(self.validation_items if split == 'validation' else self.test_items)

  def histories_and_targets(self, split: str) -> tuple[Sequences, np.ndarray]:
    """Returns the history (earlier items) and the target of every row of a split.

    The rows of leave-one-out are the users; the history of a test user includes the validation item.
    """
    targets = self.targets(split)
    if not self.is_leave_one_out:
      items, offsets = (self.column(f'{split}_history_{name}') for name in ('items', 'offsets'))
      return Sequences(items, offsets), targets
    if split == 'validation':
      return self.train, targets
    return self.train.append(self.validation_items), targets

  def history_column(self, split: str, column: str) -> np.ndarray | None:
    """Returns a column of the log for the items of a split's histories.

    Args:
      split: validation or test.
      column: times, ratings or events.

    Returns:
      Flat, aligned with the values of `histories_and_targets(split)[0]`. None if it is not known.
    """
    _check_name('split', split, SPLITS)
    _check_name('column', column, COLUMNS)
    if not self.is_leave_one_out:
      return self.column(f'{split}_history_{column}')
    values = self.column(f'train_{column}')
    if values is None or split == 'validation':
      return values
    return np.insert(values, self.train.offsets[1:], self.column(f'validation_{column}'))

  def seen(self, split: str) -> Sequences:
    """Returns the items that `eval.exclude_seen` removes from every row: those of its history, without context."""
    histories, _ = self.histories_and_targets(split)
    if self.target_events is None:
      return histories
    return histories.keep(self.target_events[self.history_column(split, 'events')])

  def countable_sequences(self, split: str) -> Sequences:
    """Returns the sequences that baselines may count to predict a split's targets.

    Under leave-one-out these are the histories. Under other splits, and with context events, they are the
    training part alone, since the history of one row may hold the target of another. Context is left out.
    """
    found = self.histories_and_targets(split)[0] if self.is_leave_one_out else self.train
    return found if self.train_is_target is None else found.keep(self.train_is_target)


@dataclasses.dataclass(frozen=True)
class Dataset(Log):
  """Interactions, catalogue and semantic IDs of one prepared folder.

  Attributes:
    sids: the semantic IDs of the items.
  """

  _READ_AT_LOAD: ClassVar = (
    *Log._READ_AT_LOAD, 'sid_description', 'sid_quality', 'keywords', 'optimum',
  )  # fmt: skip

  sids: SidTable

  @classmethod
  def _mapped(cls, folder: Prepared) -> dict[str, Any]:
    return super()._mapped(folder) | {'sids': SidTable.load(folder / 'sids')}

  # --- records of the preparation

  @functools.cached_property
  def sid_description(self) -> dict[str, Any] | None:
    """The description of the SID table with its statistics; see `SidTable.save`."""
    return _json(self.folder / 'sids' / DESCRIPTION)

  @functools.cached_property
  def sid_quality(self) -> dict[str, Any] | None:
    """The quality report of the SIDs (`recjax.sids.quality`). None if the preparation wrote none."""
    return _json(self.folder / 'sids' / quality_lib.FILE)

  @functools.cached_property
  def keywords(self) -> list[dict[str, Any]] | None:
    """Token, description and keywords of every used SID token. None if they were not prepared."""
    path = self.folder / keywords_lib.FILE
    return keywords_lib.read(path, 'keywords') if path.exists() else None

  @functools.cached_property
  def optimum(self) -> dict[str, Any] | None:
    """The best possible expected metrics of each split. None if the distribution of the data is unknown."""
    return _json(self.folder / 'optimum' / 'optimum.json')

  # --- the catalogue

  @property
  def num_items(self) -> int:
    return len(self.sids.codes_IL)

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    self._check_unchanged('tokenizer')
    return Vocabulary(self.folder / 'tokenizer', self.sids.codes_per_level, self.sids.catalogue)

  @functools.cached_property
  def titles(self) -> Sequences:
    """The text pieces of every item's title (of another text if it has none), without BOS or EOS."""
    self._check_unchanged('texts')
    texts = self.folder / 'texts'
    return Sequences(
      arrays.load(texts / 'item_tokens.npy'), arrays.load(texts / 'item_token_offsets.npy')
    )

  @functools.cached_property
  def collaborative(self) -> Sequences | None:
    """Each item's co-occurring items, the strongest first. None if they were not prepared."""
    return self._relation('collaborative')

  @functools.cached_property
  def semantic(self) -> Sequences | None:
    """Each item's nearest items by text, the nearest first. None if they were not prepared."""
    return self._relation('semantic')

  def _relation(self, name: str) -> Sequences | None:
    self._check_unchanged('relations')
    items = self.folder / 'relations' / f'{name}_items.npy'
    offsets = self.folder / 'relations' / f'{name}_offsets.npy'
    return Sequences(arrays.load(items), arrays.load(offsets)) if items.exists() else None
