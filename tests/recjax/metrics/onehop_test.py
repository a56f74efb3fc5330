"""One-hop memorization against plain Python over dictionaries."""

import collections
import itertools

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.metrics import onehop
from tests.data_prep import beauty
from tests.recjax.metrics import logs
from tests.shared_data import needs_shared


def by_loops(log, histories, size):
  """Returns for every history: the set by the rule, without cut ties, with all of them, and uncut."""
  follow, popularity, at = collections.defaultdict(collections.Counter), collections.Counter(), 0
  for row in (log.train[u].tolist() for u in range(len(log.train))):
    popularity.update(row)
    for n, (source, target) in enumerate(itertools.pairwise(row), at + 1):
      follow[source][target] += log.train_is_target is None or bool(log.train_is_target[n])
    at += len(row)
  for history in histories:
    counts = collections.Counter()
    for item in set(history):
      counts.update(follow[item])
    counts = +counts
    ordered = sorted(counts, key=lambda item: (-counts[item], -popularity[item], item))
    border = counts[ordered[size - 1]] if len(ordered) > size else 0
    is_cut = len(ordered) > size and counts[ordered[size]] == border
    yield (
      set(ordered[:size]),
      {item for item in counts if counts[item] >= border + is_cut},
      {item for item in counts if counts[item] >= border},
      set(counts),
    )


@pytest.mark.parametrize('context', [False, True])
@pytest.mark.parametrize('size', [1, 3, 6, 50])
def test_sets_equal_loops(monkeypatch, size, context):
  monkeypatch.setattr(onehop, 'BLOCK_ENTRIES', 300)  # several blocks
  log, rows = logs.random_log(size, context=context)
  histories = [row[:-1] for row in rows]
  histories[4] = []
  every = np.tile(np.arange(-1, log.num_items), (len(rows), 1))
  found = onehop.memberships(
    log,
    Sequences.from_lists(histories),
    {'every': every, 'none': every[:, :0]},
    onehop.successors(log),
    size,
  )
  assert found['none'].inside.shape == (len(rows), 0)
  got = found['every']
  differing = set()
  for u, sets in enumerate(by_loops(log, histories, size)):
    for name, expected in zip(('inside', 'ties_out', 'ties_in', 'uncut'), sets, strict=True):
      assert set(every[u][getattr(got, name)[u]].tolist()) == expected, (u, name)
    differing |= {len(each) for each in sets}
  assert len(differing) > 3


def test_a_log_without_transitions_has_empty_sets():
  log = logs.of_lists([[], [1]], [[0, 1, 2], [1, 2, 0]], 3)
  found = onehop.memberships(
    log, log.train, {'target': np.array([[0], [2]])}, onehop.successors(log)
  )['target']
  assert not found.inside.any() and not found.uncut.any()


def test_the_set_does_not_depend_on_the_numbering_of_users():
  log, rows = logs.random_log(7)
  order = np.random.default_rng(0).permutation(len(rows))
  shuffled = logs.of_lists([rows[u][:-2] for u in order], [rows[u] for u in order], log.num_items)
  every = np.tile(np.arange(log.num_items), (len(rows), 1))
  first, second = (
    onehop.memberships(
      each, each.histories_and_targets('test')[0], {'': every}, onehop.successors(each), 4
    )['']
    for each in (log, shuffled)
  )
  np.testing.assert_array_equal(first.inside[order], second.inside)


@pytest.mark.soak
@needs_shared('amazon2014/beauty')
def test_shares_of_beauty():
  # Another count gave 11.2 %, and 9.9 % to 11.7 % by other tie rules; uncut 18.5 %.
  rows, num_items = beauty.lists()
  log = logs.of_lists([row[:-2] for row in rows], rows, num_items)
  histories, targets = log.histories_and_targets('test')
  found = onehop.memberships(log, histories, {'target': targets[:, None]}, onehop.successors(log))[
    'target'
  ]
  shares = [found.inside.mean(), found.ties_out.mean(), found.ties_in.mean(), found.uncut.mean()]
  assert shares == pytest.approx([0.1122, 0.0870, 0.1522, 0.1848], abs=5e-5)
  sets = by_loops(log, [row[:-1] for row in rows[:2000]], onehop.SIZE)
  expected = [targets[u] in inside for u, (inside, *_) in enumerate(sets)]
  assert found.inside[:2000, 0].tolist() == expected
