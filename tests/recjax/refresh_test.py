"""Three days of a shop: refreshes that go on from each other, verdicts, kills and refusals."""

import dataclasses
import json
import re
import shutil
import types

import numpy as np
import pytest

from bench import shop_log
from configs import table
from data_prep import prepare
from recjax import config as config_lib
from recjax import refresh as refresh_lib
from recjax.data import log_change
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences
from recjax.evaluate import make_context
from recjax.metrics import ranking
from recjax.metrics.evaluators.retrieval import Retrieval
from recjax.sharding import mesh as mesh_lib
from recjax.train import train_stages
from recjax.workdir import identity, sizes
from recjax.workdir.request import Request

DAYS = {'monday': '2026-03-20', 'tuesday': '2026-03-27', 'wednesday': '2026-04-03'}


def settings(folder):
  config = table.get_config('cpu')
  config.data.name, config.data.prepared_dir = 'shop', str(folder / 'data/monday')
  config.data.raw_dir, config.data.text_pieces = str(folder / 'raw/monday'), 400
  for field, column in shop_log.COLUMNS.items():
    if field in ('user', 'item', 'time', 'title'):
      config.data[f'{field}_column'] = column
  config.sids.encoder, config.sids.codes = 'tfidf', (8, 8)
  config.sids.tfidf_width = config.sids.cooccurrence_width = 8
  config.model.depth = config.model.heads = config.model.kv_heads = 1
  config.model.width = config.model.ff_width = config.model.scan_unroll = 8
  config.model.width, config.model.scan_unroll = 16, 1
  config.mixture.next_item.max_items = 8
  config.packing.row_length, config.packing.rows, config.batch_size = 32, 4, 16
  config.num_train_steps, config.optim.warmup_steps, config.eval_every_steps = 6, 1, 3
  config.eval.beams, config.eval.batch_size, config.eval.eval_users = 20, 64, 16
  return config_lib.from_config_dict(config)


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
  """The folder of three logs; the workdir runs/shop holds a model of Monday."""
  folder = tmp_path_factory.mktemp('shop')
  for day, until in DAYS.items():
    shop_log.write(folder / 'raw' / day, users=150, items=40, seed=0, until=until)
  config, workdir = settings(folder), folder / 'runs/shop'
  dataset, mesh = Dataset.load(prepare.prepare(config)), mesh_lib.make_mesh(config.mesh)
  config = sizes.resolved(config, dataset, None, mesh)
  train_stages(config, workdir, make_context(config, dataset, mesh))
  return folder


def request(shop, source, day, workdir=None, **changes):
  source = refresh_lib.epath.Path(shop / 'runs' / source)
  workdir = shop / 'runs' / workdir if workdir else refresh_lib.default_workdir(source)
  config = identity.config_of(source)
  config = config and dataclasses.replace(config, **changes)
  made = Request(
    config=config, mode='refresh', workdir=refresh_lib.epath.Path(workdir), source=source,
    raw_dir=str(shop / 'raw' / day), budget=1.0,
  )  # fmt: skip
  made.check_refresh()
  return refresh_lib.planned(made)


def run(made):
  mesh = mesh_lib.make_mesh(made.config.mesh)
  return refresh_lib.refresh(made, lambda: prepare.prepare(made.config), mesh)


def sids(dataset):
  ids = [item['id'] for item in dataset.items]
  return dict(zip(ids, map(tuple, dataset.sids.codes_IL.tolist()), strict=True))


def test_wednesday_goes_on_from_tuesday_and_tuesday_from_monday(shop, monkeypatch):
  tuesday = request(shop, 'shop', 'tuesday')
  assert tuesday.workdir == shop / 'runs/shop-2'
  assert tuesday.config.prepared_folder == shop / 'data/shop-2'
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(refresh_lib, 'best_params', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    run(tuesday)  # killed after the training
  assert not (tuesday.workdir / 'refresh.json').exists()
  result, dataset = run(tuesday)
  starts = (tuesday.workdir / 'starts.jsonl').read_text()
  assert len(starts.splitlines()) == 2
  assert result == json.loads((tuesday.workdir / 'refresh.json').read_text())
  assert (result['steps'], result['base_steps']) == (6, 6)
  lines = (tuesday.workdir / 'refresh.txt').read_text()
  assert lines.startswith('GO: ' if result['verdict'] == 'go' else 'NO-GO: ')
  # The rows are those of the evaluation that are later than Monday's log.
  monday = Dataset.load(shop / 'data/monday')
  newest = max(
    np.load(path).max() for path in (shop / 'data/monday/interactions').glob('t*_times.npy')
  )
  later = np.load(dataset.folder / 'interactions/test_times.npy') > newest
  assert result['rows']['compared'] == later.sum() > 20
  if later.all():
    evaluation = json.loads((tuesday.workdir / 'evaluation.json').read_text())
    for name, found in result['metrics'].items():
      expected = {'new': evaluation['metrics']['test'], **evaluation['baselines']}.get(name, found)
      assert found['ndcg@10'] == pytest.approx(expected['ndcg@10'])
  before, after = sids(monday), sids(dataset)
  assert result['data']['new_items'] == len(after.keys() - before.keys())
  assert {item: after[item] for item in before} == before

  again, data = run(request(shop, 'shop', 'tuesday'))
  assert (again, data) == (result, None)
  assert (tuesday.workdir / 'starts.jsonl').read_text() == starts
  with pytest.raises(ValueError, match='a finished refresh of another log'):
    run(request(shop, 'shop', 'wednesday', 'shop-2'))

  wednesday = request(shop, 'shop-2', 'wednesday')
  assert wednesday.workdir == shop / 'runs/shop-3'
  result, dataset = run(wednesday)
  assert result['base_steps'] == 6
  last = sids(dataset)
  assert {item: last[item] for item in after} == after
  back, data = run(request(shop, 'shop-3', 'tuesday', 'back'))
  assert (back['verdict'], data) == ('no-go', None)
  assert back['reasons'][0].startswith('dates go back: the newest interaction is of 2026-03-2')


def test_a_log_without_news_is_no_go_and_a_lost_preparation_is_refused(shop):
  made = request(shop, 'shop', 'monday', 'same')
  result, data = run(made)
  assert (result['verdict'], data) == ('no-go', None)
  assert result['reasons'][0].startswith('nothing is new: no interaction is later than 2026-03-19')
  assert not (made.workdir / 'checkpoints').exists()
  # The verdict compares all test rows, whatever sample the earlier run evaluated.
  sampled = request(shop, 'shop', 'tuesday', evaluators={'retrieval': Retrieval(rows=20)})
  assert sampled.config.evaluators['retrieval'].rows is None
  # The command line has precedence over the budget.
  assert request(shop, 'shop', 'tuesday', num_train_steps=50).config.num_train_steps == 50
  epochs = request(shop, 'shop', 'tuesday', num_train_steps=None, num_epochs=2.0).config
  assert (epochs.num_train_steps, epochs.num_epochs) == (None, 2.0)

  others = shop / 'raw/others'
  shop_log.write(others, users=30, items=20, seed=1)
  for path in others.iterdir():
    path.write_text(re.sub(r'"sku(\d)', r'"other\1', path.read_text()))
  with pytest.raises(ValueError, match='must hold items of the earlier preparation'):
    run(request(shop, 'shop', 'others', 'foreign'))
  for file, message in (('checkpoints', 'with a checkpoint'), ('config.json', 'holds no config')):
    shutil.copytree(shop / 'runs/shop', shop / 'runs/broken', dirs_exist_ok=True)
    shutil.move(shop / 'runs/broken' / file, shop / file)
    with pytest.raises(ValueError, match=message):
      request(shop, 'broken', 'tuesday')
  shutil.move(shop / 'data/monday', shop / 'data/moved')
  try:
    with pytest.raises(ValueError, match=r'data/monday does not exist\. Prepare them again: '):
      request(shop, 'shop', 'tuesday')
  finally:
    shutil.move(shop / 'data/moved', shop / 'data/monday')


def world(num_rows=100):
  """Returns a data set of 100 test rows and an old log; targets of odd rows are new items."""
  items = [{'id': f'i{n}'} for n in range(4)]
  train = Sequences(np.array([0, 1, 2, 3]), np.array([0, 4]))
  targets = np.arange(num_rows) % 4
  dataset = types.SimpleNamespace(
    folder=refresh_lib.epath.Path('/none'), items=items, train=train, ticks_per_second=0,
    num_rows=lambda _: num_rows, targets=lambda _: targets, row_users=lambda _: np.arange(num_rows),
  )  # fmt: skip
  return dataset, log_change.Summary(['i0', 'i2', 'x'], ['u'], None, 9)


@pytest.mark.parametrize(
  ('new', 'old', 'counting', 'reasons'),
  [
    (0.30, 0.30, 0.20, []),
    (0.28, 0.30, 0.20, []),  # worse, but within the error
    (0.10, 0.60, 0.05, ['worse than that of the old model']),
    (0.10, 0.10, 0.60, ['worse than that of the baseline transitions']),
    (0.10, 0.60, 0.60, ['the old model', 'the baseline transitions']),
  ],
)
def test_the_rule_of_the_verdict(new, old, counting, reasons):
  rng = np.random.default_rng(0)
  dataset, old_log = world()

  def ranks(share):
    return np.where(rng.random(100) < share, 0, 20)

  all_ranks = {'new': ranks(new), 'old': ranks(old), 'popularity': ranks(0.0)}
  all_ranks['transitions'] = ranks(counting)
  found = refresh_lib.judged(all_ranks, dataset, old_log, 20)
  assert len(found['reasons']) == len(reasons)
  assert all(part in reason for part, reason in zip(reasons, found['reasons'], strict=True))
  values = {name: ranking.ndcg(each, 10) for name, each in all_ranks.items()}
  # A score of the new model alone is shown, but is no baseline.
  own = refresh_lib.judged(all_ranks | {'codes': ranks(0.9)}, dataset, old_log, 20, ('codes',))
  assert (own['reasons'], own['best_baseline']) == (found['reasons'], found['best_baseline'])
  assert own['metrics'].keys() - found['metrics'].keys() == {'codes'}
  difference = found['differences']['old']['ndcg@10']
  assert difference['mean'] == pytest.approx(values['new'].mean() - values['old'].mean())
  assert found['rows'] | {'new_items': 50, 'compared': 100, 'users': 100} == found['rows']


def test_new_items_that_no_list_holds_are_no_go():
  dataset, old_log = world()
  ranks = np.where(np.arange(100) % 2, 20, 0)  # targets of odd rows are new items
  all_ranks = {'new': ranks, 'old': ranks, 'popularity': ranks}
  [reason] = refresh_lib.judged(all_ranks, dataset, old_log, 20)['reasons']
  assert reason.startswith('new items are not covered: none of 50 targets')
  ranks = np.where(np.arange(100) == 1, 19, ranks)
  assert not refresh_lib.judged(all_ranks | {'new': ranks}, dataset, old_log, 20)['reasons']


def test_a_log_that_lost_interactions_or_users_is_a_warning():
  dataset, _ = world()
  data = {'unreachable_targets': 0, 'items_sharing_a_sid': 0, 'interactions': [900, 905], 'users': [50, 45], 'removed_users': 10}  # fmt: skip
  assert refresh_lib._warnings(data, dataset) == []
  data |= {'interactions': [900, 899], 'removed_users': 11}
  assert refresh_lib._warnings(data, dataset) == [
    'the new log has fewer interactions: 899, not 900',
    'the new log lacks 11 of the 50 old users',
  ]


def test_the_name_of_the_next_workdir(tmp_path, monkeypatch):
  path = refresh_lib.epath.Path(tmp_path)
  (path / 'monday/checkpoints').mkdir(parents=True)
  for folder, source in (('monday', '.'), ('monday/checkpoints', '..')):
    monkeypatch.chdir(path / folder)
    assert refresh_lib.default_workdir(refresh_lib.epath.Path(source)) == path / 'monday-2'
  assert refresh_lib.default_workdir(path / 'shop').name == 'shop-2'
  assert refresh_lib.default_workdir(path / 'shop-7').name == 'shop-7-2'  # no refresh
  (path / 'shop-7').mkdir()
  (path / 'shop-7/refresh.json').write_text('{}')
  assert refresh_lib.default_workdir(path / 'shop-7').name == 'shop-8'
