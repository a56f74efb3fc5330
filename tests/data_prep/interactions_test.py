"""The clean log against brute force."""

import collections
import json

import numpy as np
import pytest

from data_prep import interactions


def random_log(seed, rows=400, users=40, items=60):
  rng = np.random.default_rng(seed)
  # Skewed, so that some users and items fall out in several rounds.
  u = (users * rng.random(rows) ** 2).astype(int)
  i = (items * rng.random(rows) ** 2).astype(int)
  return interactions.RawLog(
    np.array([f'u{n}' for n in u]), np.array([f'i{n}' for n in i]), rng.integers(0, 9, rows), {}
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


@pytest.mark.parametrize('k', [0, 1, 3, 5, 9, 50])
@pytest.mark.parametrize('seed', range(4))
def test_k_core_equals_brute_force(seed, k):
  rng = np.random.default_rng(seed)
  users = (30 * rng.random(300) ** 2).astype(int)
  items = (50 * rng.random(300) ** 2).astype(int)
  kept = np.flatnonzero(interactions.k_core(users, items, k))
  assert kept.tolist() == brute_core(list(zip(users, items, strict=True)), k)


def test_k_core_needs_several_rounds():
  # A chain: each removal takes the next node below 2, until nothing is left.
  users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2, 3])
  assert not interactions.k_core(users, items, 2).any()
  assert interactions.k_core(np.array([], int), np.array([], int), 2).shape == (0,)


@pytest.mark.parametrize('seed', range(3))
def test_clean_equals_brute_force(seed):
  log = random_log(seed)
  kept = brute_core(list(zip(log.users, log.items, strict=True)), 4)
  by_user = collections.defaultdict(list)
  for n in kept:
    by_user[str(log.users[n])].append((int(log.times[n]), n, str(log.items[n])))
  cleaned = interactions.clean(log, 4)
  assert cleaned.user_ids == sorted(by_user)
  assert cleaned.item_ids == sorted({str(log.items[n]) for n in kept})
  for u, user in enumerate(cleaned.user_ids):
    rows = slice(cleaned.offsets[u], cleaned.offsets[u + 1])
    expected = sorted(by_user[user])  # by time, then in file order
    assert [cleaned.item_ids[i] for i in cleaned.items[rows]] == [item for _, _, item in expected]
    assert cleaned.times[rows].tolist() == [time for time, _, _ in expected]


def test_write_splits_and_describes(tmp_path):
  users = ['b', 'a', 'b', 'a', 'b', 'a', 'b']
  items = ['y', 'x', 'x', 'y', 'x', 'z', 'w']
  times = [4, 7, 1, 7, 2, 7, 3]
  records = {
    'x': {'title': 'Soap &amp; \n water', 'brand': 'B', 'categories': [['C', 'D'], ['E']]},
    'y': {'title': 'half \ud800', 'description': 'long ' * 1000, 'price': 2.5},
    'z': {'title': None, 'brand': ''},
    'unseen': {'title': 'never bought'},
  }
  cleaned = interactions.clean(
    interactions.RawLog(np.array(users), np.array(items), np.array(times), records), 0
  )
  statistics = interactions.write(cleaned, records, tmp_path)
  arrays = {p.stem: np.load(p) for p in tmp_path.glob('*.npy')}
  assert json.loads((tmp_path / 'users.json').read_text()) == ['a', 'b']
  # a: x y z at one time, in file order. b: x x w y.
  assert {name: array.tolist() for name, array in arrays.items()} == {
    'train_items': [1, 1, 1],
    'train_times': [7, 1, 2],
    'train_offsets': [0, 1, 3],
    'validation_items': [2, 0],
    'validation_times': [7, 3],
    'test_items': [3, 2],
    'test_times': [7, 4],
  }
  assert arrays['train_items'].dtype == arrays['test_items'].dtype == np.int32
  assert arrays['train_offsets'].dtype == arrays['train_times'].dtype == np.int64
  rows = [json.loads(line) for line in (tmp_path / 'items.jsonl').read_text().splitlines()]
  assert rows == [
    {'id': 'w', 'text': ''},
    {
      'id': 'x',
      'title': 'Soap & water',
      'brand': 'B',
      'categories': [['C', 'D'], ['E']],
      'text': 'Soap & water. B. C > D. E',
    },
    {
      'id': 'y',
      'title': 'half',
      'description': ('long ' * 1000).strip(),
      'price': 2.5,
      'text': 'half. ' + ('long ' * 1000)[: interactions.MAX_DESCRIPTION],
    },
    {'id': 'z', 'text': ''},
  ]
  assert statistics == json.loads((tmp_path / 'statistics.json').read_text())
  assert statistics == {
    'users': 2,
    'items': 4,
    'interactions': 7,
    'mean_length': 3.5,
    'max_length': 4,
    'repeated_interactions': 1,
    'items_without_record': 1,
    'items_without_title': 2,
    'items_without_text': 2,
  }


def test_a_user_too_short_to_split_is_named_with_the_remedy():
  log = interactions.RawLog(
    np.array(['long'] * 3 + ['short'] * 2), np.array(list('abcab')), np.arange(5), {}
  )
  with pytest.raises(ValueError, match=r"user 'short' has 2.*--config\.data\.k_core to 3 or more"):
    interactions.clean(log, 0)


def test_an_empty_core_is_an_error():
  with pytest.raises(ValueError, match=r'400, the 99-core keeps none.*--config\.data\.k_core'):
    interactions.clean(random_log(0), 99)
  empty = interactions.RawLog(np.array([], str), np.array([], str), np.array([], int), {})
  with pytest.raises(ValueError, match='no interaction is left'):
    interactions.clean(empty, 0)


def test_columns_must_have_one_length():
  log = random_log(0)
  broken = interactions.RawLog(log.users[1:], log.items, log.times, {})
  with pytest.raises(ValueError, match='399, 400 and 400'):
    interactions.clean(broken, 0)
