"""The figures of a table, against scipy and numbers by hand."""

import json

import numpy as np
import pytest
from scipy import stats

from bench.ablations import figures
from bench.ablations.runs import Run
from bench.ablations.tables import Row, Table
from configs import demo
from recjax.config import from_config_dict
from recjax.metrics import paired, ranking
from recjax.report.compare.contenders import Contender
from tests.recjax.report.compare import workdirs


def contender(name, *ranks, seeds=None):
  seeds = tuple(range(len(ranks))) if seeds is None else seeds
  return Contender(
    name, 'run', ('',) * len(ranks), seeds, (0,) * len(ranks), None, tuple(map(np.asarray, ranks))
  )


@pytest.fixture
def rows():
  rng = np.random.default_rng(0)
  return {
    name: contender(name, *rng.integers(0, top, (2, 60)))
    for name, top in (('a', 40), ('b', 25), ('c', 15))
  }


def test_differences_equal_paired_tests_of_the_mean_over_seeds(rows):
  users_U = np.arange(60)
  inside_U = users_U % 3 == 0
  groups = {'all': users_U >= 0, 'inside': inside_U, 'outside': ~inside_U, 'none': users_U < 0}
  found = figures.compared(rows, {'b': 'a', 'c': 'b'}, (5, 10), users_U, groups)
  assert list(found) == ['b', 'c']
  for new, old in (('b', 'a'), ('c', 'b')):
    assert list(found[new]) == ['all', 'inside', 'outside']
    for group, is_row_U in list(groups.items())[:3]:
      values = {
        name: np.mean([(r[is_row_U] < 10).astype(float) for r in rows[name].ranks], axis=0)
        for name in (new, old)
      }
      got = found[new][group]['recall@10']
      assert got['mean'] == pytest.approx(np.mean(values[new] - values[old]))
      assert got['p'] == pytest.approx(stats.ttest_rel(values[new], values[old]).pvalue)
      by_seed = [
        (rows[new].ranks[s] < 10)[is_row_U].mean() - (rows[old].ranks[s] < 10)[is_row_U].mean()
        for s in (0, 1)
      ]
      assert got['seeds'] == pytest.approx(by_seed)
  p = [found[name]['inside']['ndcg@5']['p'] for name in ('b', 'c')]
  holm = [found[name]['inside']['ndcg@5']['p_holm'] for name in ('b', 'c')]
  assert holm == paired.holm(p)


def test_rows_without_runs_are_left_out_and_seeds_are_paired_by_their_number(rows):
  users_U = np.arange(60)
  late = contender('d', np.zeros(60, int), seeds=(1,))
  found = figures.compared(
    rows | {'d': late}, {'d': 'a', 'x': 'a', 'b': 'x'}, (10,), users_U, {'all': users_U >= 0}
  )
  assert list(found) == ['d']
  expected = 1 - ranking.recall(rows['a'].ranks[1], 10).mean()
  assert found['d']['all']['recall@10']['seeds'] == [pytest.approx(expected)]


class Log:
  """The parts of a data set that predictions are written from: 30 users and 25 items."""

  folder, num_items = 'nowhere', 25
  items = tuple({'id': f'i{n}'} for n in range(25))

  def targets(self, split):
    return np.random.default_rng(len(split)).integers(0, 25, 30)

  def num_rows(self, split):
    return 30

  def row_users(self, split):
    return np.arange(30)

  def user_ids(self):
    return [f'u{n}' for n in range(30)]

  def files_digest(self, *names):
    return 'digest'


def test_the_figures_of_a_data_set_come_from_files_alone(tmp_path):
  config, dataset = from_config_dict(demo.get_config('tiny')), Log()
  table = Table(
    question='?', base='', rows=[Row(name='first'), Row(name='second'), Row(name='third')]
  )
  ranks, planned = {}, []
  for row in table.rows:
    for seed in (0, 1):
      run = Run('shop', row, seed, tmp_path / row.name / str(seed), ())
      planned.append(run)
      if row.name != 'third':
        lists = workdirs.rankings(dataset, seed, 0.3 if row.name == 'first' else 0.7)
        ranks[row.name, seed] = workdirs.write(
          run.workdir, config, dataset, lists, seed=seed, splits=('validation', 'test')
        )
        (run.workdir / 'goodput.json').write_text(
          '{"processes": [{"seconds": {"step": 1.5, "save": 0.5}, "trainings": {}}]}'
        )
  found = figures.of_data(table, planned)
  assert found['unfinished'] == ['shop, third, seed 0', 'shop, third, seed 1']
  assert [run['seconds'] for run in found['runs']['first']] == [2.0, 2.0]
  assert found['runs']['third'] == []
  test = found['test']
  users = len(ranks['first', 0])
  inside = (np.arange(users) % 3 == 0).sum()
  assert {name: each['rows'] for name, each in test['groups'].items()} == {
    'all': users,
    'outside': users - inside,
    'inside': inside,
  }
  recall = {
    name: [(ranks[name, seed] < 10).mean() for seed in (0, 1)] for name in ('first', 'second')
  }
  for name, values in recall.items():
    entry = test['rows'][name]['metrics']['recall@10']
    assert entry['mean'] == pytest.approx(np.mean(values))
    assert entry['seed_deviation'] == pytest.approx(np.std(values, ddof=1))
  assert 'differences' not in test['rows']['first']
  difference = test['rows']['second']['differences']['all']['recall@10']
  assert difference['mean'] == pytest.approx(np.subtract(recall['second'], recall['first']).mean())
  assert found['best_on_validation']['row'] == max(
    ('first', 'second'),
    key=lambda name: found['validation']['rows'][name]['metrics']['recall@10']['mean'],
  )
  assert str(tmp_path) not in json.dumps(found)
  lines = figures.text('shop', found).splitlines()
  assert f'shop, test; rows: all {users}' in '\n'.join(lines)
  assert any(line.startswith('second') and f'{difference["mean"]:+.4f} ±' in line for line in lines)
