"""A made-up log in several files, with what real logs have: equal times, repeats, kinds of events, ids that are alike."""

import dataclasses

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data_prep import sources
from data_prep.beam import job as job_lib
from data_prep.beam.parts import Work
from data_prep.log import interactions, splits
from data_prep.log.filters import Filters

USERS = [*(f'u{n}' for n in range(40)), 'É', 'é', 'U1', 'u1 x', '\U0001f600', '￿', 'u2']
ITEMS = [*(f'i{n}' for n in range(12)), 'I3', 'ß', '٣']
_EVENTS = np.array(['view', 'cart', 'buy'])
_WEIGHTS = np.array([0.5, 0.1, 0.4])


def table(rows=600, seed=0):
  """Returns the interactions."""
  rng = np.random.default_rng(seed)
  users = np.array(USERS, object)[(len(USERS) * rng.random(rows) ** 1.5).astype(int)]
  items = np.array(ITEMS, object)[(len(ITEMS) * rng.random(rows) ** 2).astype(int)]
  rating = rng.integers(1, 6, rows).astype(float)
  return pa.table(
    {
      'user': users,
      'item': items,
      'time': rng.integers(0, 60, rows) * 86_400,
      'rating': pa.array(rating, mask=rng.random(rows) < 0.3),
      'event': rng.choice(_EVENTS, rows, p=_WEIGHTS).astype(object),
    }
  )


def write(folder, log, parts=3, kind='parquet', unlisted=('i5',)):
  """Writes the interactions in parts, and an item table without the items `unlisted`."""
  folder.mkdir(parents=True, exist_ok=True)
  bounds = np.linspace(0, len(log), parts + 1).astype(int)
  for n in range(parts):
    part = log.slice(bounds[n], bounds[n + 1] - bounds[n])
    path = folder / f'interactions-{n:05d}-of-{parts:05d}.{kind}'
    if kind == 'csv':
      pyarrow.csv.write_csv(part, path)
    else:
      pyarrow.parquet.write_table(part, path, row_group_size=90)
  listed = [*(item for item in ITEMS if item not in unlisted), 'never bought']
  items = pa.table({'item': listed, 'title': [f'Title of {item}' for item in listed]})
  pyarrow.csv.write_csv(items, folder / 'items.csv')


def section(folder, **fields):
  """Returns the data section."""
  return sources.get('table')(
    source='table', name='world', raw_dir=str(folder), **({'k_core': 3} | fields)
  )


def local(data, folder):
  """Returns clean log, split and records by the local engine."""
  raw = data.load(epath.Path(folder))
  log = interactions.clean(raw, data.k_core, data.duplicates, data.catalogue, Filters.of(data))
  return log, splits.split(log, data.split, data.split_shares, data.max_history), raw.item_records


def job(data, folder, work):
  """Returns a started job whose parts are in a folder."""
  made = job_lib.Job(data, str(folder), Work(str(work), 'world'), job_lib.code_digest())
  made.start()
  return made


def assert_same(found, expected):
  """Compares clean log, split and records."""
  for one, other in zip(found[:2], expected[:2], strict=True):
    one, other = (
      part if isinstance(part, dict) else vars(part) | {'rows': None} for part in (one, other)
    )
    assert one.keys() == other.keys()
    for name, values in other.items():
      if isinstance(values, np.ndarray):
        assert one[name].dtype == values.dtype, name
        np.testing.assert_array_equal(one[name], values, name)
      else:
        assert one[name] == values, name
  assert dict(found[2]) == dict(expected[2])
  if dataclasses.is_dataclass(found[0]):
    np.testing.assert_array_equal(found[0].rows, expected[0].rows)
