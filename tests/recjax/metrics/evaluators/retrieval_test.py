"""Retrieval with several scores: the weights are chosen on validation rows, and no test target is read for them."""

import dataclasses
import json
import types

from etils import epath
import jax
import numpy as np
import pytest

from recjax import recommend
from recjax.data.dataset import Dataset
from recjax.decode.blend import Weights
from recjax.decode.candidates import Candidates
from recjax.evaluate import by_split, evaluate_best, make_context
from recjax.metrics import rivals
from recjax.metrics.evaluators.retrieval import Retrieval
from recjax.report.build import report_run
from recjax.schema.blend import Blend, Memory
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import evaluation_file, predictions
from tests.recjax.decode.ranker_test import small


def search(dataset):
  """Returns a search whose scores know the targets a little, in ways that differ between the splits."""

  def candidates(_, histories, label, *__):
    split = label.split()[1]
    rng = np.random.default_rng(len(split))
    rows, items = len(histories), dataset.num_items
    found = np.stack([rng.permutation(items)[:60] for _ in range(rows)]).astype(np.int32)
    is_target = found == np.asarray(dataset.targets(split))[:rows, None]
    gains = (0.5, 1.5, 1.0) if split == 'validation' else (2.0, 0.0, 0.0)
    return Candidates(
      found,
      *((rng.normal(size=found.shape) + gain * is_target).astype(np.float32) for gain in gains),
    )

  return types.SimpleNamespace(columns=(), beams=20, candidates=candidates)


def one_device():
  return mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])


def context_of(world, dataset=None, ranker=None):
  config, plain = world
  dataset = plain if dataset is None else dataset
  return make_context(config, dataset, one_device(), search(plain) if ranker is None else ranker)


def test_weights_are_chosen_without_the_test_targets(tiny_world, monkeypatch):
  _, dataset = tiny_world
  plain = by_split(context_of(tiny_world), Retrieval())
  chosen = plain['validation'].weights
  assert chosen.head > 0 and chosen.memory > 0 and plain['test'].weights == chosen
  assert plain['validation'].metrics['blend_head'] == chosen.head
  assert 'blend_head' not in plain['test'].metrics
  # The codes alone are best on test rows, but they did not choose.
  assert plain['test'].rankers['codes'].ranks_U.mean() < plain['test'].ranked.ranks_U.mean()
  other = dataclasses.replace(dataset, test_items=np.roll(dataset.test_items, 1))
  moved = by_split(context_of(tiny_world, other), Retrieval())
  assert moved['test'].weights == chosen
  np.testing.assert_array_equal(moved['test'].ranked.items_UK, plain['test'].ranked.items_UK)

  def forbidden(self, split):
    assert split != 'test', 'a test target was read before the weights were chosen'
    return self.validation_items

  rows = np.arange(dataset.num_rows('validation'))
  context = context_of(tiny_world)
  monkeypatch.setattr(Dataset, 'targets', forbidden)
  assert Retrieval().evaluate(context, 'validation', rows).weights == chosen


def test_test_rows_are_not_ranked_before_the_weights_are_chosen(tiny_world):
  context, rows = context_of(tiny_world), np.arange(5)
  with pytest.raises(ValueError, match='must be chosen on validation rows before test rows are'):
    Retrieval().evaluate(context, 'test', rows)
  found = Retrieval().evaluate(context.with_weights(Weights(1.0, 0.0)), 'test', rows)
  np.testing.assert_array_equal(found.ranked.items_UK, found.rankers['head'].items_UK)


@pytest.fixture(scope='module')
def evaluated(tiny_world, tmp_path_factory):
  """A workdir with the evaluation of a random model with a memory."""
  config, dataset, params = small(tiny_world)
  settings = dataclasses.replace(config.eval, memory=Memory(counts='transitions'), batch_size=64)
  config = dataclasses.replace(config, eval=settings)
  workdir = epath.Path(tmp_path_factory.mktemp('evaluated'))
  context = make_context(config, dataset, one_device()).with_params(params)
  with pytest.MonkeyPatch.context() as patch:
    quick = {name: rivals.BASELINES[name] for name in ('popularity', 'transitions')}
    patch.setattr(rivals, 'BASELINES', quick)
    results = evaluate_best(config, workdir, context, 7)
  return config, dataset, params, workdir, results


def test_rankers_stand_in_the_evaluation_the_predictions_and_the_report(evaluated):
  config, dataset, _, workdir, results = evaluated
  assert results['blend']['memory'] > 0 and results['blend']['head'] == 0
  assert results['rankers'].keys() == {'codes'} and 'codes' not in results['baselines']
  assert results['metrics']['test']['recall@10'] > results['rankers']['codes']['recall@10']
  assert {'model', 'codes'} <= results['memorization']['test'].keys()
  assert 'codes' in results['splits']['test']['hop']['1']
  assert 'rankers/codes' in predictions.names(workdir, 'test')
  ranks = predictions.of_evaluation(workdir, 'test', 'rankers/codes', results).read('rank')['rank']
  hits = [rank is not None and rank < 10 for rank in ranks.to_pylist()]
  assert np.mean(hits) == pytest.approx(results['rankers']['codes']['recall@10'])
  report_run(config, workdir, dataset, 17)
  report = json.loads((workdir / 'report.json').read_text())
  assert report['blend'] == results['blend'] and report['rankers'] == results['rankers']
  page = (workdir / 'report.html').read_text()
  assert '>codes</th>' in page and 'weights chosen by ndcg@10 of' in page
  assert 'Other evaluators' not in page  # the weights make no table of their own


def test_recommendations_have_the_order_of_the_evaluation(evaluated, monkeypatch):
  config, dataset, params, workdir, results = evaluated
  mesh = one_device()
  monkeypatch.setattr(recommend, 'best_params', lambda *_: (params, 7))
  ranker, _, step = recommend.best_ranker(config, workdir, dataset, mesh)
  assert step == 7 and ranker.weights == Weights(0.0, results['blend']['memory'])
  recommender = recommend.Recommender(ranker, params, step)
  histories, _ = dataset.histories_and_targets('test')
  rows = range(0, 60, 7)
  ids = [[dataset.items[i]['id'] for i in histories[row].tolist()] for row in rows]
  found = recommender.recommend(ids, k=20)
  kept = predictions.of_evaluation(workdir, 'test', 'retrieval', results).read('items')['items']
  assert [[each.item for each in items] for items in found] == [
    kept[row].as_py()[:20] for row in rows
  ]
  given = dataclasses.replace(config.eval, blend=Blend(memory=0.0))
  config = dataclasses.replace(config, eval=given)
  assert recommend.best_ranker(config, workdir, dataset, mesh)[0].weights == Weights(0.0, 0.0)
  assert evaluation_file.read(workdir)['blend'] == results['blend']
