"""The clean log against brute force."""

import collections
import dataclasses

import numpy as np
import pytest

from data_prep.log import core, interactions, raw_log
from recjax.data.sequences import offsets_of


def random_log(seed, rows=400, users=40, items=60):
  rng = np.random.default_rng(seed)
  # Skewed, so that the k-core takes several rounds.
  u = (users * rng.random(rows) ** 2).astype(int)
  i = (items * rng.random(rows) ** 2).astype(int)
  return raw_log.RawLog(
    np.array([f'u{n}' for n in u]),
    np.array([f'i{n}' for n in i]),
    rng.integers(0, 9, rows),
    {},
    np.arange(rows, dtype=np.float32),
    np.array(['view', 'buy', 'ä'])[rng.integers(0, 3, rows)],
  )


def brute_core(pairs, k):
  """Drops one user or item at a time until none has fewer than k rows."""
  rows = list(enumerate(pairs))
  while True:
    for side in (0, 1):
      counts = collections.Counter(pair[side] for _, pair in rows)
      weak = next((node for node, count in counts.items() if count < k), None)
      if weak is not None:
        rows = [row for row in rows if row[1][side] != weak]
        break
    else:
      return [n for n, _ in rows]


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('k', [0, 1, 3, 5, 9, 50])
@pytest.mark.parametrize('seed', range(4))
def test_k_core_equals_brute_force(seed, k):
  rng = np.random.default_rng(seed)
  users = (30 * rng.random(300) ** 2).astype(int)
  items = (50 * rng.random(300) ** 2).astype(int)
  users.sort()
  kept = np.flatnonzero(core.k_core(offsets_of(np.bincount(users)), items, k))
  assert kept.tolist() == brute_core(list(zip(users, items, strict=True)), k)


def test_k_core_needs_several_rounds():
  # A chain: each removal leaves the next node with less than 2 rows, until the log is empty.
  offsets, items = np.array([0, 2, 4, 6]), np.array([0, 1, 1, 2, 2, 3])
  assert not core.k_core(offsets, items, 2).any()
  assert core.k_core(np.array([0]), np.array([], int), 2).shape == (0,)


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('seed', range(3))
def test_clean_equals_brute_force(seed):
  log = random_log(seed)
  triples = list(zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), strict=True))
  first = [n for n, triple in enumerate(triples) if triple not in triples[:n]]
  kept = [first[n] for n in brute_core([triples[n][:2] for n in first], 4)]
  by_user = collections.defaultdict(list)
  for n in kept:
    by_user[str(log.users[n])].append((int(log.times[n]), n, str(log.items[n])))
  cleaned = interactions.clean(log, 4, 'drop')
  assert cleaned.duplicates == len(triples) - len(first) > 0
  lost = (len({triples[n][i] for n in first}) - len({triples[n][i] for n in kept}) for i in (0, 1))
  assert cleaned.below_k_core == (*lost, len(first) - len(kept))
  assert cleaned.user_ids == sorted(by_user)
  assert cleaned.item_ids == sorted({str(log.items[n]) for n in kept})
  for u, user in enumerate(cleaned.user_ids):
    rows = slice(cleaned.offsets[u], cleaned.offsets[u + 1])
    expected = sorted(by_user[user])  # by time, then in file order
    assert [cleaned.item_ids[i] for i in cleaned.items[rows]] == [item for _, _, item in expected]
    assert cleaned.times[rows].tolist() == [time for time, _, _ in expected]
    places = [n for _, n, _ in expected]
    assert cleaned.rows[rows].tolist() == cleaned.ratings[rows].tolist() == places
    events = [cleaned.event_names[event] for event in cleaned.events[rows]]
    assert events == log.events[places].tolist()
  assert cleaned.event_names == ('buy', 'view', 'ä')
  assert cleaned.items.dtype == cleaned.events.dtype == np.int32
  assert cleaned.times.dtype == cleaned.offsets.dtype == np.int64
  assert cleaned.ratings.dtype == np.float32


def small_log(**fields):
  """Users a (x, y, z) and b (x, y) of increasing times."""
  users, items = np.array(list('aaabb')), np.array(list('xyzxy'))
  return dataclasses.replace(raw_log.RawLog(users, items, np.arange(5), {}), **fields)


@pytest.mark.usefixtures('sizes')
def test_duplicates_are_rejected_with_an_example_or_dropped():
  # Row 4 repeats row 1, row 6 repeats row 1 again, row 5 repeats row 0; row 3 has another item.
  users, items = np.array(list('abcbbab')), np.array(list('xyxxyxy'))
  log = raw_log.RawLog(users, items, np.array([5, 7, 5, 7, 7, 5, 7]), {})
  with pytest.raises(
    ValueError,
    match=r"^interaction 5 of the log: .*this one repeats interaction 2 of the log: user 'b', item 'y'. "
    r"3 rows repeat an earlier one\. Set --config\.data\.duplicates='drop'",
  ):
    interactions.clean(log, 0)
  cleaned = interactions.clean(log, 0, 'drop')
  assert cleaned.rows.tolist() == [0, 1, 3, 2]
  assert cleaned.duplicates == 3
  # They are dropped before counting: b keeps two rows, and so does x with a and c.
  with pytest.raises(
    ValueError, match=r'the 3-core must keep .* none of 4\. .*the 1-core is the largest'
  ):
    interactions.clean(log, 3, 'drop')


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'times': np.array([0, 1, np.nan, 3, 4])}, "got nan of user 'a' and item 'z'.*time_column"),
    ({'times': np.array([0, 1, 2, np.inf, 4])}, "got inf of user 'b' and item 'x'"),
    ({'times': np.array([0, 1.5, 2, 3, 4])}, "got 1.5 of user 'a' and item 'y'"),
    ({'times': np.array([0, 1, 2, 3, 1e19])}, 'got 1e.19'),
    ({'times': np.array(list('01234'))}, 'whole numbers; got an array of <U1'),
    ({'times': np.arange(4)}, 'got 5, 5 and 4'),
    ({'ratings': np.array([1, 2, np.inf, 4, 5], np.float32)}, "got inf from user 'a' for item 'z'"),
    ({'ratings': np.ones(4, np.float32)}, 'as many ratings as users; got 4 and 5'),
    ({'events': np.array(['view'])}, 'as many events as users; got 1 and 5'),
    ({'users': np.array(['a', 'a', 'a', '\ud800', 'b'])}, 'must be valid text'),
  ],
)
def test_invalid_ids_times_and_ratings_are_rejected(fields, message):
  with pytest.raises(ValueError, match=message):
    interactions.clean(small_log(**fields), 0)


def test_times_may_be_whole_numbers_of_any_dtype():
  for times in (np.arange(5.0), np.arange(5, dtype=np.int16), np.arange(5, dtype=np.uint32)):
    cleaned = interactions.clean(small_log(times=times), 0)
    assert cleaned.times.dtype == np.int64
    assert cleaned.times.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures('sizes')
def test_catalogue_all_includes_items_without_interactions():
  log = small_log(item_records={'w': {}, 'y': {}, 'z': {}, 'zz': {}})
  assert interactions.clean(log, 0).item_ids == ['x', 'y', 'z']
  whole = interactions.clean(log, 0, catalogue='all')
  assert whole.item_ids == ['w', 'x', 'y', 'z', 'zz']
  assert whole.items.tolist() == [1, 2, 3, 1, 2]
  # The 2-core keeps x and y. z has a record, and so stays in the catalogue without interactions.
  core = interactions.clean(log, 2, catalogue='all')
  assert core.item_ids == ['w', 'x', 'y', 'z', 'zz']
  assert core.items.tolist() == [1, 2, 1, 2]


def held_out_log():
  rows = raw_log.HeldOutRows
  return small_log(
    held_out={
      'validation': rows(np.array(['b', 'new']), [['x', 'y'], []], np.array(['z', 'v'])),
      'test': rows(np.array(['a']), [['x', 'y', 'z', 'x']], np.array(['y'])),
    }
  )


@pytest.mark.usefixtures('sizes')
def test_held_out_rows_of_a_source_use_the_same_indices_as_the_log():
  log = interactions.clean(held_out_log(), 0)
  assert log.user_ids == ['a', 'b', 'new']
  assert log.item_ids == ['v', 'x', 'y', 'z']
  assert log.offsets.tolist() == [0, 3, 5, 5]
  found = {
    name: [array.tolist() for array in dataclasses.astuple(part)]
    for name, part in log.held_out.items()
  }
  # users, flat histories, their offsets, targets
  assert found == {
    'validation': [[1, 2], [1, 2], [0, 2, 2], [3, 0]],
    'test': [[0], [1, 2, 3, 1], [0, 4], [2]],
  }


def test_a_k_core_filter_is_rejected_for_a_source_with_held_out_rows():
  with pytest.raises(ValueError, match=r'data\.k_core must be 0.*got 2.*--config\.data\.k_core=0'):
    interactions.clean(held_out_log(), 2)
  log = held_out_log()
  part = log.held_out['test']
  broken = dataclasses.replace(part, histories=[*part.histories, []])
  with pytest.raises(ValueError, match='the test rows have 1, 2 and 1'):
    interactions.clean(dataclasses.replace(log, held_out=log.held_out | {'test': broken}), 0)


def test_an_empty_k_core_is_an_error():
  with pytest.raises(ValueError, match=r'it keeps none of 384.*--config\.data\.k_core'):
    interactions.clean(random_log(0), 99, 'drop')
  empty = raw_log.RawLog(np.array([], str), np.array([], str), np.array([], int), {})
  with pytest.raises(ValueError, match='must keep at least one interaction'):
    interactions.clean(empty, 0)


def test_columns_of_different_lengths_are_rejected():
  log = random_log(0)
  broken = dataclasses.replace(log, users=log.users[1:])
  with pytest.raises(ValueError, match='399, 400 and 400'):
    interactions.clean(broken, 0)
