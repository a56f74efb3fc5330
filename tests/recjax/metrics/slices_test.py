"""Groups of rows against masks by plain Python, and the shape of the parts of evaluation.json."""

import numpy as np
import pytest

from recjax.metrics import onehop, ranking, slices
from recjax.metrics.ranked import Ranked
from tests.recjax.metrics import logs
from tests.recjax.metrics.onehop_test import by_loops

KS = (1, 5, 10)
ITEMS = 80


def rankers(targets, seed, items, k=10):
  """Random lists without repeats, some of them short; every second holds the target."""
  rng = np.random.default_rng(seed)
  found = {}
  for name in ('model', 'popularity'):
    lists = np.stack([rng.permutation(items) for _ in targets]).astype(np.int32)
    rows, places = np.arange(len(targets)), (lists == targets[:, None]).argmax(1)
    lists[rows[::2], places[::2]] = lists[::2, 3]
    lists[::2, 3] = targets[::2]
    lists = lists[:, :k]
    lists[::7, 5:] = -1
    found[name] = Ranked.of(lists, None, targets, max(KS), 1.0)
  return found


@pytest.fixture(scope='module')
def measured():
  log, rows = logs.random_log(2, users=150, items=ITEMS)
  return log, rows, slices.measure(log, 'test', rankers(log.targets('test'), 0, ITEMS), KS)


def test_memorization_has_every_metric_inside_and_outside(measured):
  log, rows, found = measured
  ranked = rankers(log.targets('test'), 0, ITEMS)
  sets = [inside for inside, *_ in by_loops(log, [row[:-1] for row in rows], onehop.SIZE)]
  is_inside = np.array([row[-1] in inside for row, inside in zip(rows, sets, strict=True)])
  assert 0 < is_inside.sum() < len(rows)
  assert found.memorization['shares'].keys() == {'inside', 'ties_out', 'ties_in', 'uncut'}
  assert found.memorization['shares']['inside'] == is_inside.mean()
  assert '50 most frequent direct successors' in found.memorization['rule']
  for name, each in ranked.items():
    got = found.memorization['test'][name]
    for bucket, mask in (('inside', is_inside), ('outside', ~is_inside)):
      expected = {'users': int(mask.sum())} | ranking.ranking_metrics(each.ranks_U[mask], KS)
      assert got[bucket] == expected
    shares = [
      len(inside & set(top.tolist())) / 5
      for inside, top in zip(sets, each.items_UK[:, :5], strict=True)
    ]
    assert got['top5_share'] == pytest.approx(np.mean(shares))
    error = np.std(shares, ddof=1) / np.sqrt(len(rows))
    assert got['top5_share_stderr'] == pytest.approx(error)


def test_buckets_hold_the_rows_that_their_meaning_says(measured):
  log, rows, found = measured
  tables = found.splits['test']
  assert tables.keys() == slices.SLICES.keys() == found.splits['meanings'].keys()
  trained = np.bincount(log.train.values, minlength=log.num_items)
  expected = {
    'history_length': [str_range(len(row) - 1, (0, 1, 3, 6, 11, 21, 51)) for row in rows],
    'cold_items': ['warm' if trained[row[-1]] else 'cold' for row in rows],
    'cold_users': [str_range(len(row) - 2, (0, 1, 3, 6)) for row in rows],
    'repeated_items': ['repeated' if row[-1] in row[:-1] else 'new' for row in rows],
  }
  ranks_U = rankers(log.targets('test'), 0, ITEMS)['model'].ranks_U
  for name, of_rows in expected.items():
    assert found.labels[name].names.tolist() == of_rows
    for bucket, row in tables[name].items():
      mask = np.array([each == bucket for each in of_rows])
      assert row['rows'] == mask.sum()
      if mask.any():
        assert row['model'] == ranking.ranking_metrics(ranks_U[mask], KS)
      else:
        assert row == {'rows': 0}
    assert sum(row['rows'] for row in tables[name].values()) == len(rows)
  assert tables['cold_items']['cold']['rows'] > 0
  assert set(tables['hop']) == {'1', '2', '3', '4', 'none'}
  inside = found.labels['inside'].rows('inside')
  assert set(found.labels['hop'].names[inside]) == {'1'}


def str_range(value, firsts):
  first = max(n for n in firsts if n <= value)
  later = [n for n in firsts if n > value]
  if not later:
    return f'{first}+'
  return str(first) if later[0] == first + 1 else f'{first}-{later[0] - 1}'


def test_a_sample_of_rows_has_the_labels_of_these_rows(measured):
  log, _, whole = measured
  rows = np.array([3, 50, 51, 149])
  ranked = {name: each.take(rows) for name, each in rankers(log.targets('test'), 0, ITEMS).items()}
  found = slices.measure(log, 'test', ranked, KS, rows)
  for name in ('inside', 'hop', 'history_length', 'cold_items', 'repeated_items'):
    assert found.labels[name].names.tolist() == whole.labels[name].names[rows].tolist()
  assert found.memorization['test']['model']['inside']['users'] <= 4


@pytest.mark.parametrize('seed', range(3))
def test_deciles_are_tenths_that_do_not_split_equal_values(seed):
  rng = np.random.default_rng(seed)
  distinct = slices.deciles(rng.permutation(1000))
  assert np.bincount(distinct.of_U, minlength=10).tolist() == [100] * 10
  assert distinct.ranges['1'] == [0, 99] and distinct.ranges['10'] == [900, 999]
  values = rng.geometric(0.3, 500) - 1
  found = slices.deciles(values)
  for value in np.unique(values):
    assert len(set(found.of_U[values == value].tolist())) == 1
  order = np.argsort(values, kind='stable')
  assert (np.diff(found.of_U[order]) >= 0).all()
  for name, (low, high) in found.ranges.items():
    assert set(values[found.rows(name)].tolist()) == {
      v for v in values.tolist() if low <= v <= high
    }
  one = slices.deciles(np.full(7, 3))
  assert one.ranges == {'6': [3, 3]} and one.rows('6').all()


def test_context_counts_for_histories_and_not_for_popularity():
  log = logs.of_lists([[0, 1], [1, 0]], [[0, 1, 2, 2], [1, 0, 1, 0]], 3)
  log.train_is_target = np.array([True, False, True, True])
  ranked = Ranked.of(np.array([[2, 0], [1, 2]], np.int32), None, np.array([2, 0]), 10, 0.0)
  found = slices.measure(log, 'test', {'model': ranked}, (1, 10))
  # Item 0 was a target twice in training, item 2 never.
  assert found.splits['ranges']['popularity'] == {'3': [0, 0], '8': [2, 2]}
  assert found.labels['cold_items'].names.tolist() == ['cold', 'warm']
