"""Published figures: each has a value, a source and a protocol; they are shown for the same data and protocol only."""

import pytest

from recjax.report import published

CONFIG = {
  'data': {'name': 'Amazon_Beauty', 'split': 'leave_one_out'},
  'eval': {'exclude_seen': True},
}
COUNTS = {'users': 22363, 'items': 12101, 'interactions': 198502}
METRICS = {'recall@10': 0.0825, 'ndcg@10': 0.0455, 'recall@10_stderr': 0.002}


def test_every_figure_has_values_a_source_and_a_protocol():
  known = published.read()
  assert {figure['data'] for figure in known['figures']} == set(known['data'])
  for figure in known['figures']:
    assert {'data', 'method', 'metrics', 'source', 'read', 'seen_items'} <= set(figure)
    assert figure['metrics'] and all(0 < value < 1 for value in figure['metrics'].values())
    assert figure['seen_items'] in ('removed', 'kept', 'not stated') and figure['source']
  assert {facts['protocol'] for facts in known['data'].values()} == set(known['protocols'])
  names = [(figure['data'], figure['method'], figure['source']) for figure in known['figures']]
  assert len(names) == len(set(names))


def test_deltas_are_the_run_minus_the_published_figure():
  found = published.find(CONFIG, COUNTS, METRICS, {})
  assert (found['data'], found['seen_items']) == ('beauty', 'removed')
  (tiger,) = [row for row in found['figures'] if row['method'] == 'TIGER']
  assert tiger['metrics'] == {
    'recall@5': 0.0454,
    'ndcg@5': 0.0321,
    'recall@10': 0.0648,
    'ndcg@10': 0.0384,
  }
  assert tiger['deltas'] == pytest.approx({'recall@10': 0.0177, 'ndcg@10': 0.0071})
  assert not {row['method'] for row in found['figures']} & {'MiniOneRec', 'D3'}  # of other data


@pytest.mark.parametrize(
  ('config', 'counts'),
  [
    ({'data': {'name': 'sports', 'split': 'leave_one_out'}}, COUNTS),
    ({'data': {'name': 'beauty', 'split': 'global_time'}}, COUNTS),
    ({'data': {'name': 'beauty'}}, COUNTS),
    (CONFIG, COUNTS | {'items': 12100}),
    (CONFIG, {'items': 12101}),
    (CONFIG, {}),
  ],
)
def test_other_data_or_another_protocol_have_no_published_figures(config, counts):
  assert published.find(config, counts, METRICS, {}) is None


def test_hits_of_sids_are_compared_with_hits_of_sids():
  counts = {'items': 3686, 'validation_rows': 4532, 'test_rows': 4533}
  config = {'data': {'name': 'industrial', 'split': 'source'}, 'eval': {'exclude_seen': False}}
  found = published.find(config, counts, METRICS, {'recall@10': 0.09})
  (row,) = [row for row in found['figures'] if row['method'] == 'MiniOneRec']
  assert (row['hits'], row['compared']) == ('SIDs', 'SIDs')
  assert row['deltas'] == pytest.approx({'recall@10': 0.09 - 0.1586})
  (row,) = [row for row in found['figures'] if row['method'] == 'SIDReasoner']
  assert row['deltas']['recall@10'] == pytest.approx(0.0825 - 0.1438)
  found = published.find(config, counts, METRICS, {})
  assert {row['compared'] for row in found['figures']} == {'items'}
  removed = config | {'eval': {'exclude_seen': True}}
  assert published.find(removed, counts, METRICS, {}) is None
