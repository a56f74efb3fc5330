"""The sections about groups: their figures are those of the report; groups that contradict the rest are told."""

import copy

import pytest

from recjax.report import group_checks, groups
from tests.recjax.report import reports


def consistent() -> dict:
  """An evaluation of 100 test rows whose groups give the metrics of all rows."""
  results = reports.results() | {'rows': {'validation': 100, 'test': 100}}
  names = ('model', 'popularity', 'transitions')
  whole = {'model': results['metrics']['test'], **results['baselines']}
  parts = reports.groups(rankers=names)
  for name in names:
    recall = whole[name]['recall@10']
    inside, outside = min(3 * recall, 1), (recall - 0.2 * min(3 * recall, 1)) / 0.8
    for key, value in (('inside', inside), ('outside', outside)):
      parts['memorization']['test'][name][key]['recall@10'] = value
  hop = {
    bucket: {'rows': rows} | {
      name: reports.metrics(parts['memorization']['test'][name]['inside' if bucket == '1' else 'outside']['recall@10'])
      for name in names if rows
    }
    for bucket, rows in (('1', 20), ('2', 30), ('3', 50), ('none', 0))
  }  # fmt: skip
  parts['splits']['test'] = {'hop': hop}
  return results | parts | {'evaluators': reports.evaluators(), 'seconds_per_row': {'model': 0.1}}


def test_a_consistent_evaluation_has_no_doubts():
  assert group_checks.doubts(consistent()) == []
  assert group_checks.doubts(reports.results()) == []  # of an earlier version
  assert list(group_checks.not_finite(consistent(), '')) == []


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('memorization.test.model.inside.users', 21, 'memorization.test.model: the users inside and outside must add up to the 100'),
    ('memorization.test.model.inside.recall@10', 0.9, 'memorization.test.model: recall@10 of the groups gives 0'),
    ('memorization.test.popularity.top5_share', 1.2, 'popularity.top5_share must be from 0 to 1; got 1.2'),
    ('memorization.test.model.outside.ndcg@10', 1.5, 'model.outside.ndcg@10 must be at most 1; got 1.5'),
    ('splits.test.hop.2.rows', 31, 'splits.test.hop: the rows of the buckets must add up to the 100'),
    ('splits.test.hop.3.transitions.recall@10', 0.0, 'splits.test.hop, transitions: recall@10 of the groups'),
    ('evaluators.choice.test.rmse', -1.0, 'evaluators.choice.test.rmse must not be negative; got -1'),
    ('evaluators.choice.test.auc', 1.01, 'evaluators.choice.test.auc must be at most 1; got 1.01'),
    ('evaluators.choice.test.item_mean.rmse_stderr', -1, 'rmse_stderr must not be negative'),
    ('seconds_per_row.model', -0.1, 'seconds_per_row.model must not be negative'),
    ('metrics.test.recall@10', 0.5, 'recall@10 of the groups gives 0.081200 for all rows; it must be 0.5'),
  ],
)  # fmt: skip
def test_figures_that_cannot_be_right_are_told(path, value, message):
  results = copy.deepcopy(consistent())
  *folders, name = path.split('.')
  place = results
  for folder in folders:
    place = place[folder]
  place[name] = value
  assert any(message in doubt for doubt in group_checks.doubts(results))


def test_numbers_that_json_cannot_hold_are_found():
  values = {'a': {'b': [1.0, float('nan')]}, 'c': float('inf'), 'd': None, 'e': 'nan'}
  assert list(group_checks.not_finite(values, '')) == ['.a.b.1', '.c']


def test_the_bars_and_lines_are_the_figures_of_the_report():
  results = consistent()
  found = groups.memorization(results['memorization'])
  (_, bars), (_, shares) = found['plots']
  drawn = {(row['row'], row['group']): row['x'] for row in bars['data']['values']}
  of_test = results['memorization']['test']
  assert drawn == {(r, g): of_test[r][g]['recall@10'] for r in of_test for g in groups.GROUPS}
  assert [row['x'] for row in shares['data']['values']] == [0.4567] * 3
  assert '20 users' in bars['data']['values'][0]['hover']
  (hop,) = groups.splits(results['splits'])
  lines = {(row['x'], row['series']): row['y'] for row in hop['plot']['data']['values']}
  table = results['splits']['test']['hop']
  assert lines == {(b, r): table[b][r]['recall@10'] for b in ('1', '2', '3') for r in of_test}
  assert [bucket['rows'] for bucket in hop['buckets']] == [20, 30, 50, 0]


def test_parts_that_were_not_measured_have_no_section():
  assert groups.memorization(None) is groups.memorization({}) is None
  assert groups.splits(None) == groups.splits({'test': {}}) == []
  empty = {'hop': {'1': {'rows': 0}}}
  assert groups.splits({'test': empty})[0]['plot'] is None


def test_ordered_splits_come_first_with_the_values_of_their_buckets():
  found = groups.splits(reports.groups()['splits'])
  assert [split['plot'] is None for split in found] == [False, False, False, True]
  popularity = found[0]
  assert [bucket['range'] for bucket in popularity['buckets']] == ['0–3', '4', None, None, None]
  assert 'values 0–3' in popularity['plot']['data']['values'][0]['hover']
