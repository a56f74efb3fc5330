"""An evaluator of one's own: in the config, as the metric that chooses the checkpoint, in the results."""

import dataclasses
import json
from typing import ClassVar

from etils import epath
from flax import nnx
import numpy as np
import pyarrow.parquet as pq
import pytest

from configs import demo
from recjax import config as config_lib
from recjax import models
from recjax.data.dataset import SPLITS, Dataset
from recjax.evaluate import check_selection, evaluate_best, make_context
from recjax.metrics.evaluators import EVALUATORS
from recjax.metrics.evaluators.base import Evaluator, Result, history_rows, sample_rows
from recjax.metrics.evaluators.retrieval import Retrieval, rank_rows
from recjax.recommend import best_params
from recjax.schema.checks import setting
from recjax.sharding import mesh as mesh_lib
from recjax.train import train
from recjax.workdir import identity, resume
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.metrics_file import read_metrics
from tests import saved

ERRORS = (0.5, 0.2, 0.4, 0.3)  # of the evaluations during training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Evaluator):
  """Gives made-up errors, and the history's last item as the answer."""

  evaluator: str = 'toy'
  scale: float = setting(1.0, 'Factor on the errors.', above=0)

  task: ClassVar = 'next_item'
  lower_is_better: ClassVar = frozenset({'error'})
  item_columns: ClassVar = ('answer',)
  errors: ClassVar = iter(())

  def metrics(self, settings):
    return ('error',)

  def evaluate(self, context, split, rows):
    histories, known = context.histories(split, rows, ('times',))
    assert all(len(h) == len(k['times']) for h, k in zip(histories, known, strict=True))
    assert context.component('next_item') is context.components['next_item']
    answers = np.array([history[-1] for history in histories])
    error = self.scale * next(Toy.errors, 1.0)
    return Result({'error': error, 'error_stderr': 0.1}, rows, {'answer': answers})


class Needy(Toy):
  """Needs a task that is not in the mixture."""

  task: ClassVar = 'rating'


@pytest.fixture
def toy_config(monkeypatch):
  monkeypatch.setitem(EVALUATORS, 'toy', Toy)

  def of(**fields):
    config = demo.get_config('tiny')
    config.evaluators.mine = config_lib.evaluator('toy', **fields)
    return config

  return of


def test_an_evaluator_chooses_the_checkpoint_and_stops_the_training(
  tiny_world, tmp_path, monkeypatch, toy_config
):
  made = config_lib.from_config_dict(toy_config(rows=7))
  config, dataset = tiny_world
  evaluation = dataclasses.replace(config.eval, choose_by='mine.error', patience=2, eval_users=9)
  config = dataclasses.replace(
    config, evaluators=made.evaluators, eval=evaluation, num_train_steps=20, eval_every_steps=1
  )
  monkeypatch.setattr(Toy, 'errors', iter(ERRORS))
  context = make_context(config, dataset, mesh_lib.make_mesh(config.mesh))
  monkeypatch.setattr(context.ranker, 'rank', None)  # no other evaluator runs during training
  workdir = epath.Path(tmp_path)
  params, step = train(config, workdir, context)
  assert step == 2
  rows = read_metrics(workdir)
  assert [row['validation/mine/error'] for row in rows] == list(ERRORS)
  assert not any('ndcg' in name for row in rows for name in row)
  assert saved.scores(workdir) == {2: -0.2, 3: -0.4, 4: -0.3}
  assert best_params(config, workdir, dataset, context.mesh)[1] == 2
  with Checkpoints(workdir, read_only=True) as checkpoints:
    meta = checkpoints.meta(4)
  old = config_lib.from_dict(meta.config)
  changed = dataclasses.replace(old, eval=dataclasses.replace(old.eval, choose_by='mine.error'))
  resume.check_selection(meta, old, changed, workdir)
  changed = dataclasses.replace(
    old, eval=dataclasses.replace(old.eval, choose_by='retrieval.mrr@5')
  )
  with pytest.raises(
    ValueError, match=r'must keep eval.choose_by.*mine.error; got retrieval.mrr@5'
  ):
    resume.check_selection(meta, old, changed, workdir)
  resume.check_selection(dataclasses.replace(meta, evaluations=[]), old, changed, workdir)
  monkeypatch.undo()

  monkeypatch.setitem(EVALUATORS, 'toy', Toy)
  results = evaluate_best(config, workdir, context.with_params(params), step)
  training = results['training']
  assert (training['stopped'], training['metric']) == ('patience', 'mine/error')
  for split in SPLITS:
    assert results['evaluators']['mine'][split] == {'rows': 7, 'error': 1.0, 'error_stderr': 0.1}
    assert results['evaluators']['retrieval'][split].items() >= results['metrics'][split].items()
    table = pq.read_table(tmp_path / 'predictions' / split / 'mine.parquet')
    rows = sample_rows(dataset.num_rows(split), 7, config.seed)
    histories, targets = dataset.histories_and_targets(split)
    assert table['row'].to_pylist() == rows.tolist()
    for name, items in (('answer', [histories[r][-1] for r in rows]), ('target', targets[rows])):
      assert table[name].to_pylist() == [dataset.items[item]['id'] for item in items]
  assert identity.config_of(workdir).evaluators == config.evaluators


def test_an_evaluator_without_a_row_of_the_sample_cannot_choose(
  tiny_world, toy_config, monkeypatch
):
  config, dataset = tiny_world
  made = config_lib.from_config_dict(toy_config())
  evaluation = dataclasses.replace(config.eval, choose_by='mine.error', eval_users=9)
  config = dataclasses.replace(config, evaluators=made.evaluators, eval=evaluation)
  context = make_context(config, dataset, mesh_lib.make_mesh(config.mesh))
  check_selection(config, context)
  sample = sample_rows(dataset.num_rows('validation'), 9, config.seed)
  monkeypatch.setattr(Toy, 'measured_rows', lambda *_: sample[:1])
  check_selection(config, context)
  others = np.setdiff1d(np.arange(dataset.num_rows('validation')), sample)
  monkeypatch.setattr(Toy, 'measured_rows', lambda *_: others)
  message = (
    r'^eval\.choose_by=mine\.error needs a row .* among the 9 rows .* --config\.eval\.eval_users$'
  )
  with pytest.raises(ValueError, match=message):
    check_selection(config, context)


def test_samples_of_retrieval_count_the_same_rows_for_baselines(tiny_world, tmp_path):
  config, dataset = tiny_world
  config = dataclasses.replace(config, seed=5, evaluators={'retrieval': Retrieval(rows=11)})
  context = make_context(config, dataset, mesh_lib.make_mesh(config.mesh))
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  results = evaluate_best(config, epath.Path(tmp_path), context.with_params(params), 3)
  assert results['rows'] == dict.fromkeys(SPLITS, 11)
  rows = sample_rows(dataset.num_rows('test'), 11, 0)  # whatever the seed of the run is
  ranked = rank_rows(context.ranker, params, dataset, 'test', config.eval.ks, rows)
  assert results['metrics']['test']['recall@10'] == np.mean(ranked.ranks_U < 10)
  folder = tmp_path / 'predictions' / 'test'
  ids = [item['id'] for item in dataset.items]
  for name in ('retrieval', 'baselines/transitions'):
    table = pq.read_table(folder / f'{name}.parquet')
    assert table['row'].to_pylist() == rows.tolist()
    found = [
      target in items[:10]
      for target, items in zip(table['target'].to_pylist(), table['items'].to_pylist(), strict=True)
    ]
    ranker = (
      results['metrics'] if name == 'retrieval' else {'test': results['baselines']['transitions']}
    )
    assert np.mean(found) == pytest.approx(ranker['test']['recall@10'])
  items = pq.read_table(folder / 'retrieval.parquet')['items'].to_pylist()
  assert items == [[ids[item] for item in row if item >= 0] for row in ranked.items_UK]
  memorized = results['memorization']['test']['model']
  assert memorized['inside']['users'] + memorized['outside']['users'] == 11
  assert results == json.loads((tmp_path / 'evaluation.json').read_text())


def test_an_evaluator_is_a_section_of_the_config(monkeypatch, toy_config):
  config = config_lib.from_config_dict(toy_config(scale=2.0))
  assert list(config.evaluators) == ['mine', 'retrieval']
  assert config_lib.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  assert config_lib.from_config_dict(config_lib.to_config_dict(config)) == config
  plain = config_lib.from_config_dict(demo.get_config('tiny'))
  assert plain.preparation == config.preparation
  old = plain.to_dict()
  del old['evaluators'], old['eval']['choose_by'], old['eval']['baselines']
  assert config_lib.from_dict(old) == plain
  with pytest.raises(ValueError, match=r'evaluators.mine.scale must be positive; got -1.0'):
    config_lib.from_config_dict(toy_config(scale=-1.0))
  monkeypatch.setitem(EVALUATORS, 'toy', Needy)
  needy = config_lib.from_config_dict(toy_config())
  message = (
    r'^evaluators.mine needs an active component with the task rating in the mixture; it has '
    r'next_item \(next_item\). Set --config.mixture.rating.weight, or leave the evaluator out$'
  )
  with pytest.raises(ValueError, match=message):
    config_lib.check_evaluators(needy)


def test_histories_have_their_times_in_seconds(rated):
  dataset = Dataset.load(rated[1].folder)
  dataset.__dict__['ticks_per_second'] = 4
  items, known = history_rows(dataset, 'test', np.array([3, 0]), ('times', 'events'))
  histories, _ = dataset.histories_and_targets('test')
  for n, row in enumerate((3, 0)):
    part = slice(histories.offsets[row], histories.offsets[row + 1])
    assert items[n].tolist() == histories[row].tolist()
    times, events = (dataset.history_column('test', name)[part] for name in ('times', 'events'))
    assert known[n]['times'].tolist() == [time / 4 for time in times.tolist()]
    assert known[n]['events'].tolist() == events.tolist()
