"""Which baselines an evaluation computes."""

import dataclasses

import numpy as np
import pytest

from recjax.baselines import BASELINES, Baseline
from recjax.data.dataset import SPLITS
from recjax.metrics import rivals


def test_expensive_baselines_are_computed_by_name(tiny_world, monkeypatch):
  config, dataset = tiny_world
  rows = {split: np.arange(dataset.num_rows(split)) for split in SPLITS}
  slow = Baseline(BASELINES['popularity'].recommend, lambda split: 50.0)
  monkeypatch.setitem(BASELINES, 'bpr_mf', slow)
  assert rivals.left_out(config.eval, dataset, rows, 500.0) == {'bpr_mf': 100.0}
  assert rivals.left_out(config.eval, dataset, rows, 5000.0) == {}
  named = dataclasses.replace(config.eval, baselines=('bpr_mf',))
  assert rivals.left_out(named, dataset, rows, 500.0) == {}
  found = rivals.rankings(config.eval, dataset, 'test', rows['test'], {'bpr_mf': 100.0})
  assert list(found) == ['popularity', 'transitions', 'item_knn', 'graph']
  with pytest.raises(ValueError, match=r'eval\.baselines must be one of .*item_knn, graph, bpr_mf'):
    dataclasses.replace(config, eval=dataclasses.replace(config.eval, baselines=('knn',)))


def test_a_sample_of_rows_gets_the_rankings_of_these_rows(rated):
  config, dataset = rated
  rows = np.arange(1, dataset.num_rows('test'), 3)
  whole = rivals.rankings(config.eval, dataset, 'test', np.arange(dataset.num_rows('test')))
  found = rivals.rankings(config.eval, dataset, 'test', rows)
  assert found.keys() == whole.keys() >= {'popularity', 'bpr_mf'}
  for name, each in found.items():
    np.testing.assert_array_equal(each.items_UK, whole[name].items_UK[rows])
    np.testing.assert_array_equal(each.ranks_U, whole[name].ranks_U[rows])
