"""Which baselines an evaluation computes."""

import dataclasses

import pytest

from recjax.baselines import BASELINES, Baseline
from recjax.metrics import rivals


def test_expensive_baselines_are_computed_by_name(tiny_world, monkeypatch):
  config, dataset = tiny_world
  slow = Baseline(BASELINES['popularity'].recommend, lambda split: 50.0)
  monkeypatch.setitem(BASELINES, 'bpr_mf', slow)
  assert rivals.left_out(config.eval, dataset, 500.0) == {'bpr_mf': 100.0}
  assert rivals.left_out(config.eval, dataset, 5000.0) == {}
  named = dataclasses.replace(config.eval, baselines=('bpr_mf',))
  assert rivals.left_out(named, dataset, 500.0) == {}
  found = rivals.rankings(config.eval, dataset, 'test', {'bpr_mf': 100.0})
  assert list(found) == ['popularity', 'transitions', 'item_knn', 'graph']
  with pytest.raises(ValueError, match=r'eval\.baselines must be one of .*item_knn, graph, bpr_mf'):
    dataclasses.replace(config, eval=dataclasses.replace(config.eval, baselines=('knn',)))
