"""The benchmark of baselines on a small made-up log."""

import pytest

from bench import baselines


def test_metrics_time_and_memory_of_baselines(capsys):
  rows = baselines.made_up(2000, 300)
  names = ['popularity', 'item_knn', 'graph']
  result = baselines.measure(rows, names)
  assert (result['users'], result['items']) == (200, 300)
  assert result['train_interactions'] == pytest.approx(2000, rel=0.1)
  assert list(result['baselines']) == names
  for name, found in result['baselines'].items():
    assert 0 <= found['test']['recall@5'] <= found['test']['recall@10'] < 1
    assert found['peak_gib'] > 0 < found['seconds']
    assert (found['estimate'] is None) == (name == 'popularity')
  assert capsys.readouterr().out.count('recall@10') == 6
