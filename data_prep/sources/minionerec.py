"""MiniOneRec's data sets: a table each for training, validation and test, C being `data.category`.

MiniOneRec (arXiv 2510.24431) publishes them; TS-Rec (arXiv 2602.22632) uses the same files.

  train/C*.csv, valid/C*.csv, test/C*.csv   a row for each target: user_id, history_item_id (at most ten
                                            items, a list as Python spells it), item_id
  index/C.item.json                         the catalogue: item → title, description, brand, categories
  index/C.index.json                        its published SIDs: `sids.quantizer=import`,
                                            `sids.table=index/C.index.json`

Other columns repeat the items as titles and SIDs and are ignored. There are no times, only an order.
The training rows are put together again into sequences: a row of a user whose history is what ends the
user's sequence so far adds its target to it; any other row begins a new one, its history first. The
first sequence of user A0 is A0, the further ones are A0#2, A0#3. The validation and test rows are held
out as they are listed (`data.split=source`); some users have several, many have no training rows. Items
are the whole catalogue with `data.catalogue=all`.
"""

from collections.abc import Collection, Iterator, Sequence

from etils import epath
import numpy as np

from data_prep.log import interactions
from data_prep.sources import columns, items_json, raw_files, records
from recjax import config

_PARTS = ('train', 'valid', 'test')
_USER, _HISTORY, _ITEM = 'user_id', 'history_item_id', 'item_id'


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """Name in the layout above → path.

  Raises:
    ValueError: no category is set, or a folder holds several tables of it.
  """
  category = raw_files.category(data, 'Industrial_and_Scientific')
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


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Checks that the files are there.

  Raises:
    FileNotFoundError: they are not.
  """
  origin = "They are published as data/Amazon in MiniOneRec's repository."
  raw_files.require(input_files(data, raw_dir), raw_dir, origin)


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads the three tables and the catalogue.

  Returns:
    The rebuilt training sequences, a running number as time, and the held-out rows.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a row is broken or an item is unknown; the message names file and line.
  """
  fetch(data, raw_dir)
  *tables, catalogue = input_files(data, raw_dir).values()
  item_records = items_json.item_records(catalogue)
  train, validation, test = (list(_rows(path, item_records, catalogue)) for path in tables)
  sequences = rebuild(train)
  lengths = [len(items) for items in sequences.values()]
  print(
    f'{tables[0].name}: {len(train):,} rows of {len({user for user, *_ in train}):,} users make '
    f'{len(sequences):,} sequences of {sum(lengths):,} interactions',
    flush=True,
  )
  return interactions.RawLog(
    np.repeat(np.array(list(sequences), str), lengths),
    np.array([item for items in sequences.values() for item in items], str),
    np.arange(sum(lengths)),
    item_records,
    ticks_per_second=0,
    held_out={'validation': _held_out(validation), 'test': _held_out(test)},
  )


Row = tuple[str, list[str], str]  # user, history, target


def _rows(path: epath.Path, catalogue: Collection[str], where: epath.Path) -> Iterator[Row]:
  """User, history and target of every row, checked."""
  wanted = (_USER, _HISTORY, _ITEM)
  rows = columns.read(path, wanted, dict.fromkeys(wanted, 'data.raw_dir'))
  values = [rows.columns[name].to_pylist() for name in wanted]
  if not values[0]:
    raise ValueError(f'{path} must hold rows; it holds none')
  for number, (user, spelled, target) in enumerate(zip(*values, strict=True)):
    try:
      records.identifier(user, _USER)
      history = [items_json.index(item) for item in _history(spelled)]
      for item in (*history, target):
        if item not in catalogue:
          raise ValueError(f'an item must be in {where.name}; got {item!r}')
    except ValueError as error:
      raise ValueError(f'{rows.place(number)}: {error}') from None
    yield user, history, target


def _history(spelled: str) -> list:
  try:
    history = records.literal_list(spelled)
  except ValueError as error:
    raise ValueError(f'{_HISTORY} must be {error}; got {records.short(spelled)}') from None
  if not history:
    raise ValueError(f'{_HISTORY} must hold at least one item; it holds none')
  return history


def rebuild(rows: Sequence[Row]) -> dict[str, list[str]]:
  """Puts rows of (user, what came before, target) together into sequences.

  Args:
    rows: histories of one user grow from row to row, up to a length at which only their end is kept.

  Returns:
    Name of each sequence → its items, oldest first; in the order of their first rows.

  Raises:
    ValueError: the name of a further sequence, as A0#2, is that of a user.
  """
  window = max((len(history) for _, history, _ in rows), default=0)
  by_user: dict[str, list[list[str]]] = {}
  for user, history, target in rows:
    mine = by_user.setdefault(user, [])
    if mine and history == mine[-1][-window:]:
      mine[-1].append(target)
    else:
      mine.append([*history, target])
  sequences = {}
  for user, mine in by_user.items():
    for number, items in enumerate(mine, 1):
      name = user if number == 1 else f'{user}#{number}'
      if number > 1 and name in by_user:
        raise ValueError(
          f'user {user!r} has {len(mine)} sequences; the next one would be named {name!r}, '
          'which is the id of another user'
        )
      sequences[name] = items
  return sequences


def _held_out(rows: Sequence[Row]) -> interactions.HeldOutRows:
  users, histories, targets = zip(*rows, strict=True)
  return interactions.HeldOutRows(np.array(users, str), list(histories), np.array(targets, str))
