"""Splits compared with plain loops; training arrays do not depend on held-out interactions."""

import dataclasses
import itertools

from etils import epath
import numpy as np
import pytest

from data_prep.log import interactions, log_writer, raw_log, splits
from data_prep.sources import amazon
from recjax import config
from tests.folders import contents
from tests.shared_data import SHARED, needs_shared

SHARES = (0.8, 0.1, 0.1)
ITEMS = 20


def random_log(seed=0, users=40, rows=400, times=30, least=1) -> raw_log.RawLog:
  """Returns a log with few distinct times, and so many ties, and a minimum number of interactions per user."""
  rng = np.random.default_rng(seed)
  u = np.concatenate(
    [np.tile(np.arange(users), least), rng.integers(0, users, rows - users * least)]
  )
  order = rng.permutation(rows)
  return raw_log.RawLog(
    np.array([f'u{n:02}' for n in u])[order],
    np.array([f'i{n:02}' for n in rng.integers(0, ITEMS, rows)]),
    rng.integers(0, times, rows),
    {f'i{n:02}': {'title': f'title {n}'} for n in range(ITEMS)},
    rng.integers(1, 6, rows).astype(np.float32),
    np.array(['buy', 'view'])[rng.integers(0, 2, rows)],
  )


def clean(log):
  return interactions.clean(log, 0, 'drop', 'all')


def by_user(log, cleaned):
  """Rows (time, row in the file, item, rating, event) of each user, by id, in order of time."""
  rows = {user: [] for user in sorted(set(log.users.tolist()))}
  seen = set()
  columns = (log.times, range(len(log.users)), log.items, log.ratings, log.events, log.users)
  for time, n, item, rating, event, user in zip(*columns, strict=True):
    if (user, item, time) not in seen:
      seen.add((user, item, time))
      index, kind = cleaned.item_ids.index(item), cleaned.event_names.index(event)
      rows[str(user)].append((int(time), n, index, float(rating), kind))
  return [sorted(row) for row in rows.values()]


def column(rows, n):
  return [row[n] for row in rows]


def check_train(arrays, parts):
  flat = list(itertools.chain.from_iterable(parts))
  assert arrays['train_offsets'].tolist() == [0, *itertools.accumulate(map(len, parts))]
  for name, n in (('times', 0), ('items', 2), ('ratings', 3), ('events', 4)):
    assert arrays[f'train_{name}'].tolist() == column(flat, n)


@pytest.mark.usefixtures('sizes')
def test_leave_one_out_equals_loops():
  log = random_log(least=4)
  cleaned = clean(log)
  rows = by_user(log, cleaned)
  arrays = splits.split(cleaned, 'leave_one_out', SHARES, 0)
  check_train(arrays, [row[:-2] for row in rows])
  for name, n in (('times', 0), ('items', 2), ('ratings', 3), ('events', 4)):
    assert arrays[f'validation_{name}'].tolist() == column([row[-2] for row in rows], n)
    assert arrays[f'test_{name}'].tolist() == column([row[-1] for row in rows], n)
  assert not [name for name in arrays if 'history' in name or 'users' in name]


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('max_history', [0, 3])
@pytest.mark.parametrize('seed', range(3))
def test_global_time_equals_loops(seed, max_history):
  log = random_log(seed)
  cleaned = clean(log)
  rows = by_user(log, cleaned)
  pairs = sorted(
    (row[at][:2], u, at) for u, row in enumerate(rows) for at in range(1, len(row))
  )  # by (time, place in the file)
  train, validation = int(0.8 * len(pairs)), int(0.9 * len(pairs))
  cut = pairs[train][0]
  arrays = splits.split(cleaned, 'global_time', SHARES, max_history)
  check_train(arrays, [[row for row in rows[u] if row[:2] < cut] for u in range(len(rows))])
  held_out = {'validation': pairs[train:validation], 'test': pairs[validation:]}
  for name, part in held_out.items():
    part = sorted((u, at) for _, u, at in part)
    users, offsets = arrays[f'{name}_users'], arrays[f'{name}_history_offsets']
    assert users.tolist() == [u for u, _ in part]
    assert (users.dtype, offsets.dtype) == (np.int32, np.int64)
    for ending, n in (('times', 0), ('items', 2), ('ratings', 3), ('events', 4)):
      assert arrays[f'{name}_{ending}'].tolist() == [rows[u][at][n] for u, at in part]
      flat = arrays[f'{name}_history_{ending}']
      for (u, at), (start, end) in zip(part, itertools.pairwise(offsets), strict=True):
        before = rows[u][:at][-max_history:] if max_history else rows[u][:at]
        assert flat[start:end].tolist() == column(before, n)
  # Every pair is in one part, and no history contains the future.
  assert len(arrays['validation_items']) + len(arrays['test_items']) + train == len(pairs)
  for name in held_out:
    latest = np.maximum.reduceat(
      arrays[f'{name}_history_times'], arrays[f'{name}_history_offsets'][:-1]
    )
    assert (latest <= arrays[f'{name}_times']).all()
    assert arrays[f'{name}_times'].min() >= cut[0]
  assert arrays['train_times'].max() <= cut[0]


@pytest.mark.usefixtures('sizes')
def test_rounding_of_shares_does_not_move_the_borders():
  users, items = np.array(['t'] + ['u'] * 11), np.array(list('aabcdefghijk'))
  log = raw_log.RawLog(users, items, np.arange(12), {})
  arrays = splits.split(clean(log), 'global_time', (0.7, 0.2, 0.1), 0)
  sizes = [len(arrays[f'{name}_items']) for name in ('train', 'validation', 'test')]
  assert sizes == [9, 2, 1]  # first interactions are no targets, but they are trained on


def test_shares_that_leave_a_part_empty_are_rejected():
  log = raw_log.RawLog(np.array(list('uuv')), np.array(list('xyx')), np.arange(3), {})
  with pytest.raises(
    ValueError, match=r'of 1 they would get 0, 0, 1; got .*--config\.data\.split_shares'
  ):
    splits.split(clean(log), 'global_time', SHARES, 0)


def test_a_user_with_too_few_interactions_is_named_with_the_fields_to_set():
  log = raw_log.RawLog(
    np.array(['long'] * 3 + ['short'] * 2), np.array(list('abcab')), np.arange(5), {}
  )
  with pytest.raises(
    ValueError, match=r"user 'short' has 2.*--config\.data\.k_core to 3 or more.*global_time"
  ):
    splits.split(clean(log), 'leave_one_out', SHARES, 0)


def test_histories_beyond_the_memory_limit_are_rejected(monkeypatch):
  monkeypatch.setattr(splits, 'MAX_HISTORY_ITEMS', 100)
  cleaned = clean(random_log())
  with pytest.raises(ValueError, match=r'less than 100 items.*--config\.data\.max_history'):
    splits.split(cleaned, 'global_time', SHARES, 0)
  splits.split(cleaned, 'global_time', SHARES, 2)


def own_split_log() -> raw_log.RawLog:
  rng = np.random.default_rng(3)
  log = random_log(3)

  def part(rows):
    users = np.array([f'u{n:02}' for n in rng.integers(0, 60, rows)])  # some are new
    histories = [[f'i{n:02}' for n in rng.integers(0, ITEMS, n % 5)] for n in range(rows)]
    return raw_log.HeldOutRows(
      users, histories, np.array([f'i{n:02}' for n in rng.integers(0, ITEMS, rows)])
    )

  return dataclasses.replace(log, held_out={'validation': part(12), 'test': part(15)})


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('max_history', [0, 2])
def test_the_split_of_the_source_is_kept_with_cut_histories(max_history):
  log = own_split_log()
  cleaned = clean(log)
  arrays = splits.split(cleaned, 'source', SHARES, max_history)
  train = dict(zip(sorted(set(log.users.tolist())), by_user(log, cleaned), strict=True))
  check_train(arrays, [train.get(user, []) for user in cleaned.user_ids])
  for name, part in log.held_out.items():
    users, targets = arrays[f'{name}_users'], arrays[f'{name}_items']
    assert [cleaned.user_ids[u] for u in users] == part.users.tolist()
    assert [cleaned.item_ids[i] for i in targets] == part.targets.tolist()
    offsets = arrays[f'{name}_history_offsets']
    for history, (start, end) in zip(part.histories, itertools.pairwise(offsets), strict=True):
      found = [cleaned.item_ids[i] for i in arrays[f'{name}_history_items'][start:end]]
      assert found == (history[-max_history:] if max_history else history)
    assert f'{name}_times' not in arrays


def test_a_split_that_does_not_match_the_source_is_rejected():
  with pytest.raises(ValueError, match=r"must be 'source'.*got 'global_time'.*split='source'"):
    splits.split(clean(own_split_log()), 'global_time', SHARES, 0)
  with pytest.raises(ValueError, match=r"may be 'source' only.*split='leave_one_out'"):
    splits.split(clean(random_log()), 'source', SHARES, 0)
  log = own_split_log()
  part = log.held_out['validation']
  empty = raw_log.HeldOutRows(part.users[:0], [], part.targets[:0])
  for held_out in ({'test': part}, {'validation': empty, 'test': part}):
    with pytest.raises(ValueError, match='must hold validation rows; it holds none'):
      splits.split(clean(dataclasses.replace(log, held_out=held_out)), 'source', SHARES, 0)


def swap(log: raw_log.RawLog, kind: str) -> raw_log.RawLog:
  """The log with every held-out interaction replaced by a random one of the same user and time."""
  rng = np.random.default_rng(9)

  def items(count):
    return np.array([f'i{n:02}' for n in rng.integers(0, ITEMS, count)])

  if kind == 'source':
    parts = {
      name: dataclasses.replace(part, targets=items(len(part.targets)))
      for name, part in log.held_out.items()
    }
    return dataclasses.replace(log, held_out=parts)
  cleaned = clean(log)
  arrays = splits.split(cleaned, kind, SHARES, 0)
  counts = np.diff(arrays['train_offsets'])
  places = [
    cleaned.rows[start + count : end]
    for count, (start, end) in zip(counts, itertools.pairwise(cleaned.offsets), strict=True)
  ]
  held_out = np.concatenate(places)
  new = [np.array(column) for column in (log.items, log.ratings, log.events)]
  new[0][held_out] = items(len(held_out))
  new[1][held_out] = rng.integers(1, 6, len(held_out))
  new[2][held_out] = np.array(['buy', 'view'])[rng.integers(0, 2, len(held_out))]
  return dataclasses.replace(log, items=new[0], ratings=new[1], events=new[2])


@pytest.mark.parametrize('kind', ['leave_one_out', 'global_time', 'source'])
def test_training_arrays_do_not_depend_on_held_out_interactions(tmp_path, kind):
  log = own_split_log() if kind == 'source' else random_log(5, times=10**6, least=3)
  folders = []
  for n, one in enumerate((log, swap(log, kind))):
    folder = epath.Path(tmp_path / str(n))
    folder.mkdir()
    cleaned = clean(one)
    arrays = splits.split(cleaned, kind, SHARES, 0)
    log_writer.write(cleaned, arrays, one.item_records, folder)
    folders.append(contents(folder))
  before, after = folders
  assert before.keys() == after.keys()
  changed = {name for name in before if before[name] != after[name]}
  assert changed >= {'validation_items.npy', 'test_items.npy'}
  allowed = ('validation_', 'test_', 'tfds/held_out/', 'statistics.json')
  if kind == 'leave_one_out':  # an example of `sequences` holds what is held out too
    allowed += ('tfds/sequences/',)
  assert not [name for name in changed if not name.startswith(allowed)]


@needs_shared('amazon2014/beauty')
def test_global_time_on_beauty():
  """The whole data set, row by row."""
  data = amazon.Amazon(source='amazon2014', name='beauty', category='Beauty')
  cleaned = interactions.clean(data.load(epath.Path(SHARED / 'amazon2014' / 'beauty')), 5)
  arrays = splits.split(cleaned, 'global_time', SHARES, 10)
  pairs = 198_502 - 22_363
  borders = [0, int(0.8 * pairs), int(0.9 * pairs), pairs]
  sizes = [len(arrays[f'{name}_items']) for name in splits.SPLITS]
  assert sizes == [borders[2] - borders[1], borders[3] - borders[2]]
  assert sorted(cleaned.times)[-1] == arrays['test_times'].max()
  assert arrays['train_times'].max() <= arrays['validation_times'].min()
  assert arrays['validation_times'].max() <= arrays['test_times'].min()
  taken = np.bincount(arrays['validation_users'], minlength=22_363)
  rank = dict.fromkeys(range(22_363), 0)
  trained = np.diff(arrays['train_offsets'])
  for name in splits.SPLITS:
    offsets = arrays[f'{name}_history_offsets']
    for n, user in enumerate(arrays[f'{name}_users'].tolist()):
      # Held-out rows of a user follow one another; a user's very first interaction is none.
      at = max(trained[user], 1) + rank[user]
      rank[user] += 1
      start = cleaned.offsets[user]
      history = cleaned.items[start + max(at - 10, 0) : start + at].tolist()
      assert arrays[f'{name}_history_items'][offsets[n] : offsets[n + 1]].tolist() == history
      assert arrays[f'{name}_items'][n] == cleaned.items[start + at]
    if name == 'validation':
      assert list(rank.values()) == taken.tolist()
  whole = np.diff(cleaned.offsets)
  assert [max(t, 1) + r for t, r in zip(trained, rank.values(), strict=True)] == whole.tolist()


def test_max_history_is_rejected_for_leave_one_out():
  with pytest.raises(ValueError, match=r'must be 0 .*got 5\. Set --config\.data\.max_history=0'):
    config.Data(source='synthetic', name='x', max_history=5)
  config.Data(source='synthetic', name='x', max_history=5, split='global_time')
