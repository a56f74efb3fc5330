"""Evaluation: every held-out row once; batches and meshes do not change the metrics."""

import dataclasses
import json
import re
import shutil
import types

from flax import nnx
import jax
import numpy as np
import pytest

from configs import demo
from data_prep import prepare
from recjax import config as config_lib
from recjax import models
from recjax.baselines import BASELINES, Baseline
from recjax.data.dataset import SPLITS, Dataset
from recjax.decode.candidates import Candidates
from recjax.evaluate import evaluate_best, make_context
from recjax.metrics import ranking, rivals
from recjax.metrics.evaluators.base import sample_rows
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.metrics.ranking import METRICS
from recjax.recommend import make_ranker
from recjax.report.build import report_run
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.train import checked_streams
from tests.recjax.data import rated_world


def metrics_of(ranker, params, dataset, split, ks, rows):
  ranks_U = rank_rows(ranker, params, dataset, split, ks, rows).ranks_U
  return ranking.ranking_metrics(ranks_U, ks)


def baselines(config, dataset):
  """Returns the metrics of every baseline by split."""
  found = {}
  for split in SPLITS:
    rows = np.arange(dataset.num_rows(split))
    for name, rival in rivals.rankings(config.eval, dataset, split, rows).items():
      metrics = ranking.ranking_metrics(rival.ranks_U, config.eval.ks)
      found.setdefault(name, {})[split] = metrics
  return found


def ranked(world, mesh, batch_size, users, devices=None):
  config, dataset = world
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=batch_size))
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  recommender = make_ranker(config, dataset, mesh_lib.make_mesh(mesh, devices))
  histories, _ = dataset.histories_and_targets('test')
  items, scores = recommender.rank(params, [histories[u] for u in users])
  return items, scores, metrics_of(recommender, params, dataset, 'test', (1, 10), users)


def test_batches_and_meshes_do_not_change_the_ranking(tiny_world):
  users = np.arange(45)
  items, scores, metrics = ranked(tiny_world, Mesh(data=8), 8, users)
  others = ranked(tiny_world, Mesh(data=2, fsdp=2, tensor=2), 64, users)
  alone = ranked(tiny_world, Mesh(data=1), 16, users, jax.devices()[:1])
  for other_items, other_scores, other_metrics in (others, alone):
    np.testing.assert_array_equal(items, other_items)
    np.testing.assert_allclose(scores, other_scores, atol=1e-5)
    assert metrics == other_metrics
  histories, targets = tiny_world[1].histories_and_targets('test')
  for u in users:
    assert not set(items[u].tolist()) & set(histories[u].tolist())
  hits = [targets[u] in items[u, :10] for u in users]
  assert metrics['recall@10'] == pytest.approx(np.mean(hits))
  assert metrics['recall@10_stderr'] == pytest.approx(np.std(hits, ddof=1) / np.sqrt(45))


def test_an_absent_target_is_found_at_no_cut_off(tiny_world):
  _, dataset = tiny_world
  _, targets = dataset.histories_and_targets('test')
  search = types.SimpleNamespace(
    columns=(), rank=lambda *_: (np.stack([targets[:4], -1 - targets[:4]], 1)[:, ::-1], None)
  )
  found = metrics_of(search, None, dataset, 'test', (1, 2, 10), np.arange(4))
  assert [found[f'recall@{k}'] for k in (1, 2, 10)] == [0.0, 1.0, 1.0]
  search.rank = lambda *_: (np.full((4, 2), -1), None)
  assert metrics_of(search, None, dataset, 'test', (1, 10), np.arange(4))['recall@10'] == 0.0


def test_the_sample_is_fixed_by_the_seed():
  sample = sample_rows(1000, 100, seed=3)
  np.testing.assert_array_equal(sample, sample_rows(1000, 100, seed=3))
  assert len(set(sample.tolist())) == 100
  assert sample_rows(1000, 100, seed=4).tolist() != sample.tolist()
  np.testing.assert_array_equal(sample_rows(50, 100, seed=3), np.arange(50))


def test_baselines_have_the_keys_of_the_metrics(tiny_world):
  results = baselines(*tiny_world)
  assert results.keys() == {'popularity', 'transitions', 'item_knn', 'graph', 'bpr_mf'}
  assert results['transitions']['test']['recall@10'] > results['popularity']['test']['recall@10']
  assert results['transitions']['test'].keys() == results['transitions']['validation'].keys()


@pytest.fixture(scope='module')
def world_in_time(tmp_path_factory):
  """The tiny world split by time: a user has several rows or none."""
  folder = tmp_path_factory.mktemp('world_in_time')
  config = demo.get_config('tiny')
  config.data.prepared_dir = str(folder)
  config.data.split = 'global_time'
  config = config_lib.from_config_dict(config)
  prepare.prepare(config)
  return config, Dataset.load(folder)


def test_every_row_counts_once_if_users_have_several(world_in_time, tmp_path):
  config, dataset = world_in_time
  settings = dataclasses.replace(config.eval, weights_dtype='int8')
  config = dataclasses.replace(config, eval=settings)
  sizes = {split: dataset.num_rows(split) for split in SPLITS}
  assert min(sizes.values()) > 0
  assert dataset.num_users not in sizes.values()
  users = np.load(dataset.folder / 'interactions' / 'test_users.npy')
  assert len(np.unique(users)) < len(users)
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  context = make_context(config, dataset, mesh_lib.make_mesh(config.mesh)).with_params(params)
  recommender = context.ranker
  results = evaluate_best(config, tmp_path, context, 7)
  assert results == json.loads((tmp_path / 'evaluation.json').read_text())
  assert results['rows_per_sec'] > 0
  assert 0.8 < results['overlap@10'] <= 1  # with float32
  for split in SPLITS:
    histories, targets = dataset.histories_and_targets(split)
    ranked, _ = recommender.rank(params, [histories[row] for row in range(sizes[split])])
    hits = [targets[row] in ranked[row, :10] for row in range(sizes[split])]
    metrics = results['metrics'][split]
    assert metrics['recall@10'] == pytest.approx(np.mean(hits))
    assert metrics['recall@10_stderr'] == pytest.approx(np.std(hits, ddof=1) / np.sqrt(len(hits)))
  rows = sample_rows(sizes['validation'], 20, seed=0)
  histories, targets = dataset.histories_and_targets('validation')
  ranked, _ = recommender.rank(params, [histories[row] for row in rows])
  ranks = ranking.target_ranks(ranked, targets[rows])
  sampled = metrics_of(recommender, params, dataset, 'validation', (5,), rows)
  assert sampled == ranking.ranking_metrics(ranks, (5,))


def test_baselines_of_a_split_by_time_count_training_sequences_only(world_in_time):
  config, dataset = world_in_time
  results = baselines(config, dataset)
  counts = np.bincount(dataset.train.values, minlength=dataset.num_items)
  order = sorted(range(dataset.num_items), key=lambda item: (-counts[item], item))
  for split, metrics in (
    ('validation', results['popularity']['validation']),
    ('test', results['popularity']['test']),
  ):
    histories, targets = dataset.histories_and_targets(split)
    hits = []
    for history, target in zip(
      map(histories.__getitem__, range(len(targets))), targets, strict=True
    ):
      seen = set(history.tolist())
      hits.append(target in [item for item in order if item not in seen][:10])
    assert metrics['recall@10'] == pytest.approx(np.mean(hits))
  best = json.loads((dataset.folder / 'optimum' / 'optimum.json').read_text())
  for split in SPLITS:
    assert 0.3 < best[split]['recall@10'] < 1
  assert results['transitions']['test']['recall@10'] < best['test']['recall@10']


def constant_search(ranked: np.ndarray) -> types.SimpleNamespace:
  """Returns a recommender that gives every history the same list."""
  scores = -np.arange(len(ranked))
  return types.SimpleNamespace(
    columns=(),
    beams=len(ranked),
    candidates=lambda _, histories, *__: Candidates(
      *(np.tile(x, (len(histories), 1)) for x in (ranked, scores))
    ),
  )


def searched(config, dataset, search):
  """Returns the context of a run with another search."""
  return make_context(config, dataset, mesh_lib.make_mesh(config.mesh), search)


def test_a_metric_and_a_baseline_are_added_from_outside(tiny_world, tmp_path, monkeypatch):
  """They reach evaluation.json, report.json and the page without another change."""
  config, dataset = tiny_world
  histories, targets = dataset.histories_and_targets('test')

  def cheat(split):  # knows the targets, and ends its lists early
    known = {'test': targets, 'validation': dataset.targets('validation')}
    name = 'test' if split.histories.values.size == histories.values.size else 'validation'
    assert (split.num_items, split.k, split.exclude_seen) == (dataset.num_items, 20, True)
    return known[name][:, None]

  monkeypatch.setitem(BASELINES, 'cheat', Baseline(cheat))
  monkeypatch.setitem(METRICS, 'place', lambda ranks_U, k: np.minimum(ranks_U, k) + 1.0)
  ranked = np.arange(20)
  results = evaluate_best(config, tmp_path, searched(config, dataset, constant_search(ranked)), 7)
  cheated = results['baselines']['cheat']
  assert cheated['recall@1'] == cheated['recall@20'] == cheated['validation']['recall@1'] == 1.0
  assert cheated['place@10'] == 1.0
  places = [target + 1 if target < 10 else 11 for target in targets]
  assert results['metrics']['test']['place@10'] == pytest.approx(np.mean(places))
  report_run(config, tmp_path, dataset, 17)
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['metrics'] == results['metrics']
  assert report['baselines']['cheat']['place@10'] == 1.0
  page = (tmp_path / 'report.html').read_text()
  names = re.findall(r'<th scope="row">(\w+@\d+)</th>', page.partition('</table>')[0])
  kinds = ('recall', 'ndcg', 'mrr', 'place')
  every = [f'{kind}@{k}' for kind in kinds for k in (1, 5, 10, 20)]
  assert names == [name for name in every if name not in ('ndcg@1', 'mrr@1')]
  assert '<th scope="col" class="n">cheat</th>' in page
  assert f'{np.mean(places):.4f}' in page


def test_unreachable_targets_are_counted_and_logged(tmp_path, caplog):
  config, dataset = rated_world.prepared(tmp_path)
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, ks=(10,)))
  search = constant_search(np.full(10, -1))
  with caplog.at_level('WARNING', 'recjax'):
    results = evaluate_best(config, tmp_path, searched(config, dataset, search), 7)
  for split in SPLITS:
    histories, targets = dataset.histories_and_targets(split)
    count = sum(target in histories[row] for row, target in enumerate(targets))
    assert results['unreachable_targets'][split] == count > 0
    limit = 1 - count / len(targets)
    assert f'eval.exclude_seen removes {count} of {len(targets)} {split} targets' in caplog.text
    assert f'recall cannot exceed {limit:.4f}' in caplog.text
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, exclude_seen=False))
  results = evaluate_best(config, tmp_path, searched(config, dataset, search), 7)
  assert results['unreachable_targets'] == {'validation': 0, 'test': 0}


def test_data_that_leak_are_neither_trained_on_nor_evaluated(tiny_world, tmp_path):
  config, dataset = tiny_world
  folder = shutil.copytree(dataset.folder, tmp_path / 'prepared')
  np.save(folder / 'interactions/train_items.npy', np.roll(dataset.train.values, 1))
  dataset = Dataset.load(folder)
  with pytest.raises(ValueError, match=r'^leakage test: .*train_items\.npy must be the file'):
    evaluate_best(config, tmp_path, types.SimpleNamespace(dataset=dataset), 7)
  with pytest.raises(ValueError, match=r'^leakage test: .*train_items\.npy must be the file'):
    checked_streams(config, tmp_path, dataset, None)
