"""BPR matrix factorisation against one epoch in numpy, and on a log with two groups of users."""

import numpy as np
import pytest

from recjax.baselines import bpr_mf, popularity
from recjax.data.sequences import Sequences
from tests.recjax.baselines import logs


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch):
  values = {'WIDTH': 8, 'BATCH': 16, 'EPOCHS': 60, 'RATE': 0.05, 'DECAY': 0.01}
  for name, value in values.items():
    monkeypatch.setattr(bpr_mf, name, value)
  monkeypatch.setattr(bpr_mf, '_last', {})


def test_an_epoch_equals_numpy():
  train, _ = logs.random_log(1)
  marks = np.random.default_rng(1).random(sum(map(len, train))) < 0.7
  split = logs.split_of(train, [], train_is_target=marks)
  got = bpr_mf.train(split, epochs=1, seed=3)
  rng = np.random.default_rng(3)
  p = rng.normal(0, bpr_mf.SCALE, (len(train), 8)).astype(np.float32).astype(np.float64)
  q = rng.normal(0, bpr_mf.SCALE, (logs.ITEMS, 8)).astype(np.float32).astype(np.float64)
  b = np.zeros(logs.ITEMS)
  users = np.repeat(np.arange(len(train)), [len(row) for row in train])
  order = rng.permutation(np.flatnonzero(marks))
  drawn = [-1] * len(order)
  missing = list(range(len(order)))
  while missing:
    items = rng.integers(0, logs.ITEMS, len(missing))
    for place, item in zip(missing, items, strict=True):
      drawn[place] = item if item not in train[users[order[place]]] else -1
    missing = [place for place in missing if drawn[place] < 0]
  for start in range(0, len(order), 16):
    new_p, new_q, new_b = p.copy(), q.copy(), b.copy()
    for n in range(start, min(start + 16, len(order))):
      u, i, j = users[order[n]], split.train.values[order[n]], drawn[n]
      pull = 1 / (1 + np.exp(p[u] @ (q[i] - q[j]) + b[i] - b[j]))
      new_p[u] += bpr_mf.RATE * (pull * (q[i] - q[j]) - bpr_mf.DECAY * p[u])
      new_q[i] += bpr_mf.RATE * (pull * p[u] - bpr_mf.DECAY * q[i])
      new_q[j] += bpr_mf.RATE * (-pull * p[u] - bpr_mf.DECAY * q[j])
      new_b[i] += bpr_mf.RATE * (pull - bpr_mf.DECAY * b[i])
      new_b[j] += bpr_mf.RATE * (-pull - bpr_mf.DECAY * b[j])
    p, q, b = new_p, new_q, new_b
  for found, expected in zip(got, (p, q, b), strict=True):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
  again = bpr_mf.train(split, epochs=1, seed=3)
  assert [x.tobytes() for x in again] == [x.tobytes() for x in got]


def two_groups(users=60):
  """Users of even number have items below 12, the others the items from 12; item 24 is never seen."""
  rng = np.random.default_rng(0)
  return [(rng.choice(12, 6, replace=False) + 12 * (u % 2)).tolist() for u in range(users)]


def test_users_get_items_of_their_group():
  train = two_groups()
  split = logs.split_of(train, train, k=5)
  ranked = bpr_mf.recommend(split)
  assert ranked.dtype == np.int32
  for u, row in enumerate(ranked.tolist()):
    assert not set(row) & set(train[u])
    assert np.mean([item // 12 == u % 2 for item in row]) >= 0.8


def test_the_ranking_equals_a_full_sort():
  train = two_groups()
  histories = [train[u][:4] for u in range(60)] + [[1, 2]]
  users = np.array([*range(60), -1])
  for exclude_seen in (True, False):
    split = logs.split_of(train, histories, k=9, users=users, exclude_seen=exclude_seen)
    ranked = bpr_mf.recommend(split)
    p, q, b = bpr_mf.train(split, bpr_mf.EPOCHS)
    for row, user in enumerate(users):
      scores = q @ (p.mean(axis=0) if user < 0 else p[user]) + b
      order = [i for i in np.argsort(-scores) if not exclude_seen or i not in histories[row]]
      np.testing.assert_allclose(scores[ranked[row]], scores[order[:9]], atol=1e-6)
      assert not exclude_seen or not set(ranked[row].tolist()) & set(histories[row])


def test_rows_of_one_user_have_the_same_ranking_but_for_seen_items():
  train = [*two_groups(), []]
  seen = Sequences.from_lists([[], [5], [], []])
  rows = [[], [5], [], []]
  split = logs.split_of(train, rows, train, users=np.array([4, 4, 60, -1]), seen=seen, k=25)
  first, second, untrained, unknown = bpr_mf.recommend(split).tolist()
  assert second == [*(item for item in first if item != 5), -1]
  assert untrained == unknown != first


def test_users_without_training_get_popular_items():
  rng = np.random.default_rng(0)
  train = [
    rng.choice(logs.ITEMS, 5, p=(p := 1.0 / np.arange(1, 26)) / p.sum()).tolist()
    for _ in range(200)
  ]
  split = logs.split_of(train, [[]], users=np.array([-1]), k=5)
  best = popularity.recommend(split)[0, :3].tolist()
  assert set(best) <= set(bpr_mf.recommend(split)[0].tolist())


def test_without_training_the_order_is_that_of_items():
  for train in ([], [[]], [[3, 1]]):
    marks = np.zeros(sum(map(len, train)), bool)
    split = logs.split_of(train, [[2]], num_items=5, k=7, train_is_target=marks)
    assert bpr_mf.recommend(split).tolist() == [[0, 1, 3, 4, -1, -1, -1]]


def test_a_user_with_every_item_does_not_train():
  split = logs.split_of([[0, 1, 2]], [[]], num_items=3, k=3)
  found = bpr_mf.train(split, epochs=2)
  assert not found.biases_I.any()
  assert sorted(bpr_mf.recommend(split)[0].tolist()) == [0, 1, 2]
