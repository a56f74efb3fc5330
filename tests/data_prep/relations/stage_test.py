"""Relations compared with dictionaries, on random logs and on Beauty."""

import collections
import contextlib
import fractions
import functools
import json
import math
import types

import numpy as np
import pytest

from data_prep.encoders import tfidf
from data_prep.relations import collaborative
from data_prep.relations import stage as relation_stage
from data_prep.relations.semantic_neighbours import semantic
from recjax.data import neighbours, sequences
from recjax.schema.items import Relations
from tests.data_prep import beauty
from tests.shared_data import needs_shared

Fraction = fractions.Fraction


def _counted(users, window, weighted):
  """Co-occurrence as in IIRG's description: every ordered pair of positions within the window."""
  counts = collections.defaultdict(collections.Counter)
  unit = math.lcm(*range(1, window + 1))
  for user in users:
    for p, item in enumerate(user):
      for q in range(max(0, p - window), min(len(user), p + window + 1)):
        if user[q] != item:
          counts[item][user[q]] += unit // abs(p - q) if weighted else 1
  if weighted:
    counts = {i: {j: Fraction(n, unit) for j, n in row.items()} for i, row in counts.items()}
  return counts


def _collaborative(users, window=5, weighted=False, hops=1, min_count=1, top_k=10):
  counts = _counted(users, window, weighted)
  counts = {
    i: {j: count for j, count in row.items() if count >= min_count} for i, row in counts.items()
  }
  bought = collections.Counter(item for user in users for item in user)
  lists = {}
  for i, row in counts.items():
    strengths, walk = collections.Counter(row), row
    for _ in range(hops - 1):
      onward = collections.Counter()
      for k, strength in walk.items():
        for j, count in counts[k].items():
          onward[j] += Fraction(strength) * Fraction(count) / sum(counts[k].values()) / 2
      strengths.update(onward)
      walk = onward
    strengths.pop(i, None)
    order = sorted(strengths, key=lambda j: (-np.float32(float(strengths[j])), -bought[j], j))
    lists[i] = [(j, float(np.float32(float(strengths[j])))) for j in order[:top_k]]
  return lists


def _as_dict(made):
  offsets = made.items.offsets
  return {
    i: list(
      zip(made.items[i].tolist(), made.strengths[offsets[i] : offsets[i + 1]].tolist(), strict=True)
    )
    for i in np.flatnonzero(made.items.lengths)
  }


def _nonempty(lists):
  return {i: row for i, row in lists.items() if row}


@functools.cache
def _random_users(seed=0, users=80, items=40):
  rng = np.random.default_rng(seed)
  return [(items * rng.random(rng.integers(0, 9)) ** 2).astype(int).tolist() for _ in range(users)]


@pytest.mark.parametrize('hops', [1, 2, 3])
@pytest.mark.parametrize('weight', ['none', 'inverse'])
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'window': 1, 'top_k': 3},
    {'min_count': 2.0},
    {'window': 7, 'min_count': 0.3, 'top_k': 39},
    {'window': 100, 'min_count': 0.0},
  ],
)
def test_collaborative_equals_dictionaries(monkeypatch, hops, weight, fields):
  monkeypatch.setattr(collaborative, '_ENTRIES_AT_ONCE', 300)
  users = _random_users()
  config = Relations(distance_weight=weight, hops=hops, **fields)
  got = collaborative.collaborative(sequences.Sequences.from_lists(users), 43, config)
  assert len(got) == 43
  expected = _collaborative(users, weighted=weight == 'inverse', hops=hops, **fields)
  assert _as_dict(got) == _nonempty(expected)


def test_strengths_over_hops_equal_values_by_hand():
  # 0-1 twice, 1-2 once: from 0, one more hop gives 2 · 1/3 / 2 to item 2; from 2, 1 · 2/3 / 2 to 0.
  train = sequences.Sequences.from_lists([[0, 1], [1, 0], [1, 2]])
  config = Relations(hops=2)
  assert _as_dict(collaborative.collaborative(train, 4, config)) == {
    0: [(1, 2.0), (2, float(np.float32(1 / 3)))],
    1: [(0, 2.0), (2, 1.0)],
    2: [(1, 1.0), (0, float(np.float32(1 / 3)))],
  }


def test_ties_go_to_the_more_frequent_item_then_to_the_lower_index():
  train = sequences.Sequences.from_lists([[4, 0], [4, 1], [4, 2], [4, 3], [2], [2], [3], [3], [0]])
  got = collaborative.collaborative(train, 5, Relations())
  assert got.items[4].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize('users', [[], [[]], [[1], [2, 2]]])
@pytest.mark.parametrize('hops', [1, 2, 3])
def test_a_log_without_pairs_gives_empty_lists(users, hops):
  train = sequences.Sequences.from_lists(users)
  got = collaborative.collaborative(train, 3, Relations(hops=hops))
  assert got.items.lengths.tolist() == [0, 0, 0]


def _filled(lists, near, k):
  """IIRG's back-fill in place: `lists` and `near` are dictionaries of lists."""
  lists = {i: list(row) for i, row in lists.items()}
  for i in sorted(near.keys() | lists.keys()):
    row = lists.setdefault(i, [])
    for s in near.get(i, []):
      for j in lists.get(s, []):
        if len(row) < k and j != i and j not in row:
          row.append(j)
  return lists


def _check_filled(got, direct, expected):
  assert {i: row for i in range(len(got)) if (row := got.items[i].tolist())} == _nonempty(expected)
  for i in range(len(got)):
    offsets, length = got.items.offsets, len(direct.items[i])
    strengths = got.strengths[offsets[i] : offsets[i + 1]]
    assert (strengths[:length] > 0).all() and not strengths[length:].any()


def test_back_fill_equals_dictionaries():
  users = _random_users(users=30)
  train = sequences.Sequences.from_lists(users)
  direct = collaborative.collaborative(train, 45, Relations())
  rng = np.random.default_rng(0)
  near = {i: rng.permutation(45)[: rng.integers(0, 4)].tolist() for i in range(45)}
  got = collaborative.back_fill(direct, sequences.Sequences.from_lists(list(near.values())), 10)
  lists = {i: direct.items[i].tolist() for i in range(45)}
  expected = _filled(lists, near, 10)
  _check_filled(got, direct, expected)
  assert sum(map(len, expected.values())) > sum(map(len, lists.values()))


def test_back_fill_reads_filled_lists_only_of_lower_items():
  lists = sequences.Sequences.from_lists([[1], [], [3], [], [0, 1]])
  direct = neighbours.Neighbours(lists, np.ones(4, np.float32))
  near = sequences.Sequences.from_lists([[4], [0], [4], [1], []])
  got = collaborative.back_fill(direct, near, 3)
  # 0 takes 1 (there already) and not itself; 1 reads 0's list, which holds only itself; 2 takes both
  # of 4; 3 reads the list of 1, still empty; 4 has no semantic neighbours.
  assert [got.items[i].tolist() for i in range(5)] == [[1], [], [3, 0, 1], [], [0, 1]]
  near = sequences.Sequences.from_lists([[4], [2], [4], [2], []])
  got = collaborative.back_fill(direct, near, 3)
  # 1 is before 2 and sees [3]; 3 is after it and sees [3, 0, 1] without itself.
  assert [got.items[i].tolist() for i in range(5)] == [[1], [3], [3, 0, 1], [0, 1], [0, 1]]


def test_back_fill_does_not_change_full_lists():
  full = neighbours.Neighbours(sequences.Sequences.from_lists([[1], [0]]), np.ones(2, np.float32))
  got = collaborative.back_fill(full, sequences.Sequences.from_lists([[1], [0]]), 1)
  assert [got.items[i].tolist() for i in range(2)] == [[1], [0]] and got.strengths.all()


@pytest.mark.parametrize(('encoder', 'without', 'is_refused'),
                         [('auto', 5, True), ('tfidf', 4, False), ('vectors.npy', 5, False)])  # fmt: skip
def test_semantic_relations_need_texts_or_vectors(tmp_path, encoder, without, is_refused):
  summary = {'items': 5, 'items_without_text': without}
  (tmp_path / 'interactions').mkdir()
  (tmp_path / 'interactions' / 'manifest.json').write_text(json.dumps({'summary': summary}))
  config = types.SimpleNamespace(
    needs=lambda name: name == 'semantic', sids=types.SimpleNamespace(encoder=encoder)
  )
  expected = pytest.raises(
    ValueError, match=r'none of 5 items has a text\. Set --config\.data\.title_column'
  )
  with expected if is_refused else contextlib.nullcontext():
    relation_stage.check_texts(config, tmp_path)


@needs_shared('amazon2014/beauty')
@pytest.mark.parametrize('weight', ['none', 'inverse'])
def test_beauty_equals_dictionaries(weight):
  users, num_items = beauty.train_lists()
  assert (len(users), num_items, sum(map(len, users))) == (22363, 12101, 198502 - 2 * 22363)
  train = sequences.Sequences.from_lists(users)
  config = Relations(distance_weight=weight)
  got = collaborative.collaborative(train, num_items, config)
  assert _as_dict(got) == _nonempty(_collaborative(users, weighted=weight == 'inverse'))


@needs_shared('amazon2014/beauty')
def test_back_fill_on_beauty_equals_dictionaries():
  users, num_items = beauty.train_lists()
  near = semantic(tfidf.encode(beauty.titles()[:num_items], 32, 0), 10).items
  direct = collaborative.collaborative(
    sequences.Sequences.from_lists(users), num_items, Relations()
  )
  got = collaborative.back_fill(direct, near, 10)
  lists = {i: direct.items[i].tolist() for i in range(num_items)}
  expected = _filled(lists, {i: near[i].tolist() for i in range(num_items)}, 10)
  _check_filled(got, direct, expected)
  assert sum(len(row) < 10 for row in lists.values()) > 300
