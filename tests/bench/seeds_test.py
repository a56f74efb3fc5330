"""Figures of runs that differ by seed."""

import json

import pytest

from bench import seeds


def run(folder, name, seed, recall):
  folder.mkdir()
  metrics = {'recall@10': recall, 'recall@10_stderr': 0.01, 'ndcg@10': recall / 2}
  report = {
    'name': name,
    'run': {'best_step': 3},
    'metrics': dict.fromkeys(('validation', 'test'), metrics),
  }
  (folder / 'report.json').write_text(json.dumps(report))
  (folder / 'config.json').write_text(json.dumps({'seed': seed, 'num_train_steps': 5}))
  return str(folder)


def test_runs_are_grouped_by_data_with_mean_and_deviation(tmp_path):
  workdirs = [
    run(tmp_path / 'b', 'beauty', 1, 0.25),
    run(tmp_path / 'c', 'sports', 0, 0.125),
    run(tmp_path / 'a', 'beauty', 0, 0.125),
  ]
  found = seeds.collected(workdirs)
  assert list(found) == ['beauty', 'sports']
  beauty = found['beauty']
  assert [r['seed'] for r in beauty['runs']] == beauty['summary']['seeds'] == [0, 1]
  assert beauty['summary']['recall@10'] == 0.1875
  assert beauty['summary']['recall@10_deviation'] == pytest.approx(0.125 / 2**0.5)
  assert beauty['runs'][0]['test'] == {
    'recall@10': 0.125,
    'recall@10_stderr': 0.01,
    'ndcg@10': 0.0625,
  }
  assert found['sports']['summary']['recall@10_deviation'] is None
  assert beauty['runs'][0]['curve'] == []  # without event files


def test_the_curve_is_that_of_the_timeline(tmp_path, monkeypatch):
  workdir = run(tmp_path / 'a', 'beauty', 0, 0.5)
  monkeypatch.setattr(
    seeds.timeline, 'evaluations', lambda path, metric: [(1.2345, 0.25), (2, 0.5)]
  )
  (found,) = seeds.collected([workdir])['beauty']['runs']
  assert found['curve'] == [(1.23, 0.25), (2, 0.5)]
