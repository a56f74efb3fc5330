"""MiniOneRec's data sets: one table each for training, validation and test; C is `data.category`.

MiniOneRec (arXiv 2510.24431) publishes them; TS-Rec (arXiv 2602.22632) uses the same files.

  train/C*.csv, valid/C*.csv, test/C*.csv   one row per target: user_id, history_item_id (at most ten items,
                                            a Python list), item_id
  index/C.item.json                         the catalogue: item → title, description, brand, categories
  index/C.index.json                        its published SIDs: `sids.quantizer=import`,
                                            `sids.table=index/C.index.json`

Other columns repeat the items as titles and SIDs and are ignored. There are no times, only an order.
The training rows are joined into sequences. If the history of a row equals the end of the user's sequence, its
target is appended. Otherwise the row starts a new sequence with its history and target. The sequences of user A0
are named A0, A0#2, A0#3. The validation and test rows are held out unchanged (`data.split=source`). Some users
have several of these rows; many of the users have no training rows. With `data.catalogue=all` the items are the
complete catalogue.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses

from etils import epath
import numpy as np

from data_prep.log import raw_log
from data_prep.sources import base, items_json, raw_files, records, tables
from recjax.schema.checks import check, setting

_PARTS = ('train', 'valid', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniOneRec(base.Named):
  """The tables of MiniOneRec, with the published split."""

  user_column: str = setting('user', "Column of the user id. 'user': user_id.")
  item_column: str = setting('item', "Column of the item to predict. 'item': item_id.")
  history_column: str | None = setting(
    None, 'Column of the items before it, a Python list. None: history_item_id.'
  )

  def usual_columns(self) -> Mapping[str, str]:
    return {'user': 'user_id', 'item': 'item_id', 'history': 'history_item_id'}

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    category = raw_files.category(self, 'Industrial_and_Scientific')
    files = {}
    for part in _PARTS:
      found = raw_files.names_in(raw_dir / part, category, '.csv')
      if len(found) > 1:
        raise ValueError(
          f'{raw_dir / part} must hold one table of {category}; it holds '
          f'{", ".join(path.name for path in found)}. Set --config.data.category'
        )
      files[f'{part}/{category}*.csv'] = found[0] if found else raw_dir / part / f'{category}.csv'
    name = f'index/{category}.item.json'
    return files | {name: raw_dir / name}

  def fetch(self, raw_dir: epath.Path) -> None:
    origin = "They are published as data/Amazon in MiniOneRec's repository."
    raw_files.require(self.input_files(raw_dir), raw_dir, origin)

  def load(self, raw_dir: epath.Path) -> raw_log.RawLog:
    """Reads the training rows, joined into sequences with a running number as time, and the held-out rows."""
    self.fetch(raw_dir)
    check(
      self.unknown_items in ('auto', 'refuse'),
      "data.unknown_items must be 'refuse' for a source with its own split, whose rows are not filtered",
      self.unknown_items,
      'data.unknown_items',
    )
    *paths, catalogue = self.input_files(raw_dir).values()
    item_records = items_json.item_records(catalogue)
    train, validation, test = (list(self._rows(path, item_records, catalogue)) for path in paths)
    sequences = rebuild(train)
    lengths = [len(items) for items in sequences.values()]
    print(
      f'{paths[0].name}: {len(train):,} rows of {len({user for user, *_ in train}):,} users make '
      f'{len(sequences):,} sequences of {sum(lengths):,} interactions',
      flush=True,
    )
    return raw_log.RawLog(
      np.repeat(np.array(list(sequences), str), lengths),
      np.array([item for items in sequences.values() for item in items], str),
      np.arange(sum(lengths)),
      item_records,
      ticks_per_second=0,
      held_out={'validation': _held_out(validation), 'test': _held_out(test)},
    )

  def _rows(
    self, path: epath.Path, catalogue: Collection[str], catalogue_file: epath.Path
  ) -> Iterator['Row']:
    """Yields user, history and target of every row, checked."""
    fields = ('user', 'history', 'item')
    wanted = self.log_columns(*fields)
    rows = tables.read([path], wanted, wanted)
    values = [rows.columns[name].to_pylist() for name in wanted]
    if not values[0]:
      raise ValueError(f'{path} must hold rows; it holds none')
    for number, (user, spelled, target) in enumerate(zip(*values, strict=True)):
      try:
        records.identifier(user, self.column('user'))
        history = [items_json.index(item) for item in self._history(spelled)]
        for item in (*history, target):
          if item not in catalogue:
            raise ValueError(f'an item must be in {catalogue_file.name}; got {item!r}')
      except ValueError as error:
        raise ValueError(f'{rows.place(number)}: {error}') from None
      yield user, history, target

  def _history(self, spelled: str) -> list:
    name = self.column('history')
    try:
      history = records.literal_list(spelled)
    except ValueError as error:
      raise ValueError(f'{name} must be {error}; got {records.short(spelled)}') from None
    if not history:
      raise ValueError(f'{name} must hold at least one item; it holds none')
    return history


Row = tuple[str, list[str], str]  # user, history, target


def rebuild(rows: Sequence[Row]) -> dict[str, list[str]]:
  """Joins rows of (user, history, target) into sequences.

  Args:
    rows: the rows in file order. The histories of a user grow from row to row; only their last items are kept.

  Returns:
    Name of each sequence → its items, oldest first; in the order of users' first rows.

  Raises:
    ValueError: the name of an additional sequence, such as A0#2, is the id of a user.
  """
  window = max((len(history) for _, history, _ in rows), default=0)
  by_user: dict[str, list[list[str]]] = {}
  for user, history, target in rows:
    started = by_user.setdefault(user, [])
    if started and history == started[-1][-window:]:
      started[-1].append(target)
    else:
      started.append([*history, target])
  sequences = {}
  for user, user_sequences in by_user.items():
    for number, items in enumerate(user_sequences, 1):
      name = user if number == 1 else f'{user}#{number}'
      if number > 1 and name in by_user:
        raise ValueError(
          f'user {user!r} has {len(user_sequences)} sequences; the next one would be named {name!r}, '
          'which is the id of another user'
        )
      sequences[name] = items
  return sequences


def _held_out(rows: Sequence[Row]) -> raw_log.HeldOutRows:
  users, histories, targets = zip(*rows, strict=True)
  return raw_log.HeldOutRows(np.array(users, str), list(histories), np.array(targets, str))
