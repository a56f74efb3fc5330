"""Facts about logs compared with plain loops over the raw rows, and with numbers counted by hand."""

import collections
import itertools
import math

import numpy as np
import pytest

from data_prep.log.raw_log import HeldOutRows, RawLog
from recjax.report.data import facts as facts_lib
from recjax.report.data import gathered, successors
from recjax.report.data import whole as whole_lib
from tests.recjax.report.data import logs

SPLITS = ('validation', 'test')


def sequences_of(rows, context=()):
  """Returns each user's rows, oldest first; context follows targets; a user, item and time counts once."""
  users, seen = collections.defaultdict(list), set()
  keyed = [(r[2], r[3] in context, n, r[1], r[3], r[4], r[0]) for n, r in enumerate(rows)]
  for *row, user in sorted(keyed):
    if (user, row[3], row[0]) not in seen:
      seen.add((user, row[3], row[0]))
      users[user].append(tuple(row))
  return {user: users[user] for user in sorted(users)}


def rows_of(sequences, split, context=(), shares=(0.6, 0.2, 0.2)):
  """Returns the training part of each user, and (user, position of the target) of every held-out row, by loops."""
  if split == 'leave_one_out':
    targets = {
      u: [n for n, row in enumerate(s) if row[4] not in context] for u, s in sequences.items()
    }
    train = {u: s[: targets[u][-2]] for u, s in sequences.items()}
    return train, {
      'validation': [(u, targets[u][-2]) for u in sequences],
      'test': [(u, targets[u][-1]) for u in sequences],
    }
  moments = sorted((row[:3], user, n) for user, s in sequences.items() for n, row in enumerate(s))
  pairs = [(key, u, n) for key, u, n in moments if n and sequences[u][n][4] not in context]
  first, second = (math.floor(sum(shares[: k + 1]) * len(pairs) + 1e-6) for k in range(2))
  border = pairs[first][0]
  train = {u: [row for row in s if row[:3] < border] for u, s in sequences.items()}
  return train, {
    name: [(u, n) for _, u, n in part]
    for name, part in zip(SPLITS, (pairs[first:second], pairs[second:]), strict=True)
  }


def quantile(values, share):
  """The smallest value that at least this share of the values does not exceed."""
  ordered = sorted(values)
  return ordered[max(math.ceil(share * len(ordered) - 1e-9) - 1, 0)]


def check_quantiles(found, values):
  for name, share in gathered.QUANTILES.items():
    assert found[name] == pytest.approx(quantile(values, share)), name


@pytest.mark.parametrize(
  ('split', 'least', 'context', 'max_history'),
  [
    ('leave_one_out', 8, (), 0),
    ('global_time', 1, (), 0),
    ('global_time', 1, (), 2),
    ('global_time', 1, ('view',), 0),
  ],
)
@pytest.mark.parametrize('seed', [0, 1])
def test_facts_equal_plain_loops(tmp_path, monkeypatch, split, least, context, max_history, seed):
  rows = logs.random_rows(seed, least=least)
  log, data = logs.prepared(tmp_path, rows, split, max_history=max_history, context=context)
  found = facts_lib.facts(log, data)
  with monkeypatch.context() as patch:
    for module in (facts_lib, successors, whole_lib):
      patch.setattr(module, 'BLOCK', 50)
    assert facts_lib.facts(log, data) == found  # blocks change nothing
    patch.setattr(gathered, 'GAPS', 60)
    some = facts_lib.facts(log, data)
  assert some | {'gaps': None} == found | {'gaps': None}
  sequences = sequences_of(rows, context)
  train, held_out = rows_of(sequences, split, context)
  known = sequences
  if context:  # context after a user's last target is in no part
    ends = collections.defaultdict(int)
    for user, n in itertools.chain(*held_out.values()):
      ends[user] = max(ends[user], n + 1)
    known = {u: s[: max(ends[u], len(train[u]))] for u, s in sequences.items()}
  everything = [row for s in known.values() for row in s]
  lengths = [max(len(s), 1) for s in known.values()]
  check_quantiles(found['lengths'], lengths)
  assert found['lengths']['mean'] == pytest.approx(sum(lengths) / len(lengths))
  for low, high, count in found['lengths']['histogram']:
    assert count == sum(low <= length <= high for length in lengths)
  assert sum(count for *_, count in found['lengths']['histogram']) == len(lengths)
  gaps = [b[0] - a[0] for s in known.values() for a, b in itertools.pairwise(s)]
  check_quantiles(found['gaps'], gaps)
  assert found['gaps']['same_time_share'] == pytest.approx(sum(g == 0 for g in gaps) / len(gaps))
  sessions = sum(bool(s) for s in known.values()) + sum(g > 1800 for g in gaps)
  assert found['gaps']['sessions'] == sessions
  exact = ('min', 'max', 'same_time_share', 'sessions', 'interactions_per_session')
  assert all(some['gaps'][name] == found['gaps'][name] for name in exact)
  assert {some['gaps'][name] for name in gathered.QUANTILES} <= {*gaps}
  kinds = collections.Counter(row[4] for row in everything)
  assert {n: e['interactions'] for n, e in found['events'].items()} == dict(kinds)
  assert {n for n, e in found['events'].items() if not e['is_target']} == set(context)
  ratings = [row[5] for row in everything if not math.isnan(row[5])]
  assert found['ratings']['interactions'] == len(ratings)
  assert found['ratings']['mean'] == pytest.approx(sum(ratings) / len(ratings))
  popular = collections.Counter(row[3] for row in everything)
  assert found['popularity']['top_item']['interactions'] == max(popular.values())
  top = sum(sorted(popular.values())[-math.ceil(0.1 * found['log']['items']) :])
  assert found['popularity']['top_10_percent_share'] == pytest.approx(top / len(everything))
  assert found['popularity']['curve'][-1] == [1.0, 1.0]
  assert sum(found['dates']['timeline']) == len(everything)
  whole = sum(map(len, sequences.values()))
  assert found['log']['interactions'] == whole
  assert found['log']['in_no_split'] == whole - len(everything)
  check_splits(found['splits'], sequences, train, held_out, context, max_history)


def check_splits(found, sequences, train, held_out, context, max_history):
  assert found['training']['interactions'] == sum(map(len, train.values()))
  assert found['training']['users'] == sum(bool(s) for s in train.values())
  trained = {row[3] for s in train.values() for row in s}
  assert found['training']['items'] == len(trained)
  following = {
    (a[3], b[3]) for s in train.values() for a, b in itertools.pairwise(s) if b[4] not in context
  }
  for name, rows in held_out.items():
    split = found[name]
    assert (split['rows'], split['users']) == (len(rows), len({u for u, _ in rows}))
    repeated = cold = newest = hops = 0
    history_lengths = []
    for user, n in rows:
      history = sequences[user][max(n - max_history, 0) if max_history else 0 : n]
      target = sequences[user][n][3]
      history_lengths.append(len(history))
      repeated += target in {row[3] for row in history if row[4] not in context}
      cold += target not in trained
      newest += (history[-1][3], target) in following
      hops += any((row[3], target) in following for row in history)
    assert split['repeated_targets'] == repeated
    assert split['cold_targets'] == cold
    assert split['median_history'] == quantile(history_lengths, 0.5)
    assert split['successors']['rows'] == len(rows)
    assert split['successors']['of_newest_share'] == pytest.approx(newest / len(rows))
    assert split['successors']['of_any_share'] == pytest.approx(hops / len(rows))


def test_facts_of_a_small_log_are_those_counted_by_hand(tmp_path):
  day = 86_400
  rows = [
    ('ann', 'a', 0, 'buy', 5.0), ('ann', 'b', day, 'buy', 4.0), ('ann', 'a', 2 * day, 'buy', 3.0),
    ('ann', 'b', 3 * day, 'view', 4.0),
    ('bob', 'a', day, 'buy', 1.0), ('bob', 'b', day + 60, 'view', 1.0), ('bob', 'c', day + 3600, 'buy', 1.0),
    ('bob', 'c', day + 3600, 'buy', 1.0),  # equal to the row before
    ('cid', 'd', 0, 'buy', 1.0),  # below the 2-core
    ('dee', 'c', 10 * day, 'buy', 2.0), ('dee', 'a', 11 * day, 'buy', 2.0), ('dee', 'b', 12 * day, 'buy', 2.0),
  ]  # fmt: skip
  log, data = logs.prepared(tmp_path, rows, 'leave_one_out', k_core=2)
  found = facts_lib.facts(log, data)
  assert found['left_out'] == [
    {'reason': 'duplicates', 'interactions': 1},
    {'reason': 'k_core', 'users': 1, 'items': 1, 'interactions': 1},
  ]
  assert found['log'] == {
    'users': 3, 'items': 3, 'interactions': 10, 'in_no_split': 0, 'repeated_interactions': 2,
    'repeated_share': 0.2, 'density': 8 / 9,
  }  # fmt: skip
  assert found['events']['view'] == {'interactions': 2, 'share': 0.2, 'is_target': True}
  assert (found['ratings']['mean'], found['ratings']['min'], found['ratings']['max']) == (2.5, 1, 5)
  assert found['lengths']['histogram'] == [[1, 1, 0], [2, 2, 0], [3, 4, 3]]
  # Five gaps of a day, one of a minute, one of 59 minutes.
  assert (found['gaps']['min'], found['gaps']['median'], found['gaps']['max']) == (60, day, day)
  assert found['gaps']['sessions'] == 4 + 2 + 3
  assert found['dates']['first'] == '1970-01-01T00:00:00'
  assert found['dates']['last'] == '1970-01-13T00:00:00'
  assert found['dates']['days'] == 12
  assert found['dates']['timeline'] == [1, 4, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]
  assert found['popularity']['top_item'] == {
    'id': 'a', 'title': 'title of a', 'interactions': 4, 'share': 0.4
  }  # fmt: skip
  assert found['popularity']['top_user'] == {'id': 'ann', 'interactions': 4, 'share': 0.4}
  # Training: ann a b, bob a, dee c. Validation targets: ann a, bob b, dee a.
  assert found['splits']['training']['interactions'] == 4
  validation = found['splits']['validation']
  assert (validation['repeated_targets'], validation['cold_targets']) == (1, 0)
  assert validation['successors'] == {'rows': 3, 'of_newest_share': 1 / 3, 'of_any_share': 1 / 3}
  # Test targets: ann b after a b a, bob c after a b, dee b after c a.
  assert found['splits']['test']['repeated_targets'] == 1
  assert found['splits']['test']['successors']['of_newest_share'] == pytest.approx(2 / 3)


def test_unused_interactions_and_the_dates_of_a_split_by_time(tmp_path):
  rows = [(u, i, t, 'buy', 1.0) for u, i, t in (
    ('ann', 'a', 0), ('ann', 'b', 10), ('ann', 'c', 20), ('ann', 'd', 30), ('bob', 'a', 40), ('bob', 'b', 50),
    ('cid', 'e', 60),
  )]  # fmt: skip
  log, data = logs.prepared(tmp_path, rows, 'global_time', shares=(0.5, 0.25, 0.25))
  found = facts_lib.facts(log, data)
  # The pairs are those of b, c, d and b: two for training, d for validation, bob's b for test.
  assert found['splits']['training']['last'] == '1970-01-01T00:00:20'
  assert found['splits']['validation']['first'] == '1970-01-01T00:00:30'
  assert found['splits']['test']['first'] == '1970-01-01T00:00:50'
  assert found['log']['in_no_split'] == 1  # cid's
  assert found['lengths']['histogram'] == [[1, 1, 1], [2, 2, 1], [3, 4, 1]]
  assert found['log']['density'] == pytest.approx(7 / (3 * 5))
  assert found['dates']['last'] == '1970-01-01T00:00:50'  # cid's is in no part
  assert found['splits']['validation']['cold_targets'] == 1
  assert found['splits']['test']['successors'] == {
    'rows': 1, 'of_newest_share': 1.0, 'of_any_share': 1.0
  }  # fmt: skip


def test_a_source_split_is_described_by_its_training_part(tmp_path):
  rows = HeldOutRows(np.array(['u', 'v']), [['a', 'b'], ['b']], np.array(['c', 'b']))
  raw = RawLog(
    np.array(['u', 'u', 'w']), np.array(['a', 'b', 'a']), np.arange(3), {},
    held_out={'validation': rows, 'test': rows}, ticks_per_second=0,
  )  # fmt: skip
  log, data = logs.written(tmp_path, raw, 'source')
  found = facts_lib.facts(log, data)
  assert found['dates'] is None and found['gaps'] is None and found['events'] is None
  assert found['lengths']['histogram'] == [[1, 1, 1], [2, 2, 1]]
  assert found['splits']['training'] == {'users': 2, 'interactions': 3, 'items': 2}
  test = found['splits']['test']
  assert (test['rows'], test['repeated_targets'], test['cold_targets']) == (2, 1, 1)
  assert test['successors'] == {'rows': 2, 'of_newest_share': 0.0, 'of_any_share': 0.0}


def test_a_log_without_transitions_is_described(tmp_path):
  rows = [(f'u{n}', item, n, 'buy', 1.0) for n in range(4) for item in ('a', 'b', 'c')]
  log, data = logs.prepared(tmp_path, rows, 'leave_one_out')
  found = facts_lib.facts(log, data)
  assert found['splits']['training']['interactions'] == 4
  assert found['splits']['test']['successors'] == {
    'rows': 4, 'of_newest_share': 0.0, 'of_any_share': 0.0
  }  # fmt: skip


def test_ids_that_differ_only_by_case_or_white_space_are_counted(tmp_path):
  rows = [(u, i, t, 'buy', 1.0) for t in range(3) for u in ('ann', 'Ann', 'bob') for i in ('x', 'y ', 'y', ' Y')]  # fmt: skip
  log, data = logs.prepared(tmp_path, rows, 'leave_one_out')
  assert facts_lib.facts(log, data)['ids_alike'] == {
    'users': {'count': 2, 'example': ['Ann', 'ann']},
    'items': {'count': 3, 'example': [' Y', 'y']},
  }


def test_folders_of_earlier_versions_are_described(tmp_path):
  rows = logs.random_rows(3, least=8)
  log, data = logs.prepared(tmp_path, rows, 'leave_one_out')
  whole = facts_lib.facts(log, data)
  for name in ('unreachable_targets', 'events', 'equal_times'):
    log.statistics.pop(name, None)
  assert facts_lib.facts(log, data) == whole
