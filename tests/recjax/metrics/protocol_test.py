"""The protocol in words, reachable targets, and hits of SIDs by brute force."""

import dataclasses
import re

import numpy as np
import pytest

from recjax.metrics import protocol, ranking
from recjax.metrics.ranked import Ranked
from recjax.schema.data import Data
from recjax.sids.table import SidTable


def sid_rank(row, target, sids):
  """Walks down a list: the number of SIDs before the target's; None if it is absent."""
  seen = []
  for item in row:
    if item >= 0 and sids[item] not in seen:
      seen.append(sids[item])
  return seen.index(sids[target]) if sids[target] in seen else None


@pytest.mark.parametrize('seed', range(4))
def test_sid_ranks_equal_a_walk_down_the_list(seed):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 3, (20, 3)).astype(np.int32)
  table = SidTable(codes, (3, 3, 3), 'import', 'keep')
  sids = [tuple(row) for row in codes.tolist()]
  numbers = table.sid_I.tolist()
  assert len(set(numbers)) == len(set(sids)) == max(numbers) + 1 < 20
  assert [sids[n] for n in np.argsort(numbers, kind='stable')] == sorted(sids)
  lists = np.stack([rng.permutation(20)[:8] for _ in range(200)])
  lists[::5, rng.integers(0, 8) :] = -1
  targets = rng.integers(0, 20, 200)
  got = protocol.sid_ranks(lists, targets, table.sid_I, (1, 10)).tolist()
  expected = [sid_rank(*pair, sids) for pair in zip(lists.tolist(), targets.tolist(), strict=True)]
  assert got == [10 if rank is None else rank for rank in expected]
  assert 20 < expected.count(None) < 180


def test_sid_hits_stand_beside_item_hits_and_are_never_fewer():
  codes = np.array([[0], [0], [1], [2]], np.int32)
  sid_I = SidTable(codes, (3,), 'import', 'keep').sid_I
  targets = np.array([1, 2, 3])
  ranked = Ranked.of(np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]], np.int32), None, targets, 10, 0.0)
  found = protocol.hits(ranked, targets, sid_I, (1, 2, 10))
  assert [found[f'recall@{k}'] for k in (1, 2, 10)] == pytest.approx([0, 1 / 3, 2 / 3])
  assert [found[f'sid_recall@{k}'] for k in (1, 2, 10)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
  assert found['sid_ndcg@10'] == pytest.approx((1 + 1 / np.log2(3)) / 3)
  assert found['sid_recall@1_stderr'] == pytest.approx(1 / 3)
  found = protocol.hits(ranked, targets, np.arange(4), (1, 2, 10))
  for name in ('recall@2', 'ndcg@10', 'recall@10_stderr'):
    assert (
      found[f'sid_{name}'] == found[name] == ranking.ranking_metrics(ranked.ranks_U, (2, 10))[name]
    )


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({}, "a user's last interaction is the test target.*includes the validation target$"),
    (
      {'split': 'global_time', 'split_shares': (0.7, 0.2, 0.1), 'max_history': 5},
      'the first 70 % are .* next 20 % validation, the last 10 % test.*the last 5 items of a history are kept$',
    ),
    ({'split': 'source', 'k_core': 0}, 'those of the source$'),
    ({'context_events': ('view', 'cart')}, 'of kind view, cart are history alone, never a target$'),
  ],
)
def test_the_target_rule_is_told_in_words(fields, words):
  rule = protocol.target_rule(Data(source='table', name='x', **fields))
  assert re.search(words, rule)
  assert '\n' not in rule


def test_the_record_counts_reachable_targets(rated):
  config, dataset = rated
  ranked = {
    split: {'model': Ranked.of(np.zeros((dataset.num_rows(split), 1), np.int32), None,
                               np.asarray(dataset.targets(split)), 20, 0.0)}
    for split in ('validation', 'test')
  }  # fmt: skip
  leakage = {'rules': {'files': 'all are whole'}, 'rows': {}}
  for exclude_seen in (True, False):
    settings = dataclasses.replace(config.eval, exclude_seen=exclude_seen)
    rows = {split: np.arange(dataset.num_rows(split)) for split in ranked}
    found = protocol.record(config.data, settings, dataset, ranked, rows, leakage)
    assert found['exclude_seen'] is exclude_seen and found['split'] == 'leave_one_out'
    for split, row in found['reachable_targets'].items():
      histories, targets = dataset.histories_and_targets(split)
      repeated = sum(target in histories[u] for u, target in enumerate(targets))
      assert row['in_own_history'] == repeated > 0
      assert row['count'] == len(targets) - repeated * exclude_seen
      assert row['share'] == row['count'] / len(targets)
    assert found['items_sharing_a_sid_share'] == found['items_sharing_a_sid'] / dataset.num_items
    text = '\n'.join(protocol.lines(found))
    assert ('are not recommended' in text) is exclude_seen
    assert text.endswith('leakage test passed: all are whole')
