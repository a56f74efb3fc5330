"""Comparisons against scipy and numbers by hand: differences, seeds, groups of rows; refusals; escaped texts."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from recjax.metrics import ranking
from recjax.report.compare import contenders
from recjax.report.compare import runs as runs_lib
from recjax.report.compare.build import compare
from recjax.workdir import timeline
from tests.recjax.report.compare.workdirs import KS, rankings, write
from tests.recjax.report.page_test import Checker


@pytest.fixture
def runs(rated, tmp_path, monkeypatch):
  """Three runs: a of seed 0, b of another recipe, and a_1, which is a with seed 1; their ranks by name."""
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  lists = {name: rankings(dataset, n, share) for n, (name, share) in enumerate(
    [('a_0', 0.3), ('a_1', 0.35), ('b', 0.6)])}  # fmt: skip
  return {
    'a_0': write(tmp_path / 'a_0', config, dataset, lists['a_0']),
    'a_1': write(tmp_path / 'a_1', config, dataset, lists['a_1'], seed=1),
    'b': write(tmp_path / 'b', config, dataset, lists['b'], batch_size=128),
  }


def test_two_runs_and_the_baselines_equal_scipy(runs, tmp_path, monkeypatch):
  points = [(1.5, 0.1), (3.0, 0.2)]
  monkeypatch.setattr(timeline, 'evaluations', lambda folder, _: points if folder == 'b' else [])
  found = compare(['a_0', 'b'], tmp_path / 'out')
  assert found['trainings'] == {'metric': 'recall@10', 'curves': {'b': [[1.5, 0.1], [3.0, 0.2]]}}
  assert 'recall@10 of validation rows over minutes' in (tmp_path / 'out/compare.html').read_text()
  assert found == json.loads((tmp_path / 'out' / 'compare.json').read_text())
  assert [each['name'] for each in found['contenders']] == ['a_0', 'b', 'popularity', 'transitions']
  assert found['ks'] == list(KS)
  users = len(runs['b'])
  for name, metric in ranking.METRICS.items():
    for k in KS:
      values = {run: metric(ranks, k) for run, ranks in runs.items()}
      row = found['differences']['b'][f'{name}@{k}']
      gains = values['b'] - values['a_0']
      assert row['mean'] == pytest.approx(gains.mean())
      assert row['stderr'] == pytest.approx(stats.sem(gains))
      assert row['p'] == pytest.approx(stats.ttest_rel(values['b'], values['a_0']).pvalue)
      assert row['p'] <= row['p_holm'] <= min(1, 3 * row['p'] + 1e-12)
      low, high = (row['mean'] + sign * 1.96 * row['stderr'] for sign in (-1, 1))
      assert [row['low'], row['high']] == pytest.approx([low, high], abs=0.35 * row['stderr'])
      figures = found['contenders'][1]['metrics'][f'{name}@{k}']
      assert figures['mean'] == pytest.approx(values['b'].mean())
      assert figures['stderr'] == pytest.approx(stats.sem(values['b']))
  for split, key, rows in [
    ('inside', 'inside', np.arange(users) % 3 == 0),
    ('hop', '1', np.arange(users) % 2 == 1),
  ]:
    bucket = found['splits'][split]['buckets'][key]
    expected = ranking.recall(runs['b'], 10)[rows] - ranking.recall(runs['a_0'], 10)[rows]
    assert bucket['rows'] == rows.sum()
    assert bucket['differences']['b']['recall@10']['mean'] == pytest.approx(expected.mean())
  assert list(found['splits']['hop']['buckets']) == ['1', '<i>2</i>']  # as in evaluation.json
  assert found['contenders'][1]['top5_share'] == 0.25


def test_seeds_of_one_recipe_are_grouped(runs, tmp_path):
  found = compare(['b', 'a_0', 'a_1'], tmp_path / 'out')
  names = ['b', 'a (2 seeds)', 'popularity', 'transitions']
  assert [each['name'] for each in found['contenders']] == names
  assert found['trainings']['curves'] == {}  # these runs have no event files
  grouped = found['contenders'][1]
  assert (grouped['workdirs'], grouped['seeds']) == (['a_0', 'a_1'], [0, 1])
  recalls = [ranking.recall(runs[name], 10).mean() for name in ('a_0', 'a_1')]
  row = grouped['metrics']['recall@10']
  assert row['seeds'] == pytest.approx(recalls)
  assert row['mean'] == pytest.approx(np.mean(recalls))
  assert row['seed_deviation'] == pytest.approx(abs(recalls[0] - recalls[1]) / np.sqrt(2))
  each = (ranking.recall(runs['a_0'], 10) + ranking.recall(runs['a_1'], 10)) / 2
  assert grouped['top5_share'] == 0.25 and found['contenders'][2]['top5_share'] is None
  difference = found['differences']['a (2 seeds)']['recall@10']
  assert difference['stderr'] == pytest.approx(stats.sem(each - ranking.recall(runs['b'], 10)))


@pytest.mark.parametrize(
  ('changes', 'is_same_recipe'),
  [
    ({'sids': {'seed': 5}}, True),
    ({'mesh': {'data': 2}, 'data': {'raw_dir': 'elsewhere'}, 'eval': {'batch_size': 7}}, True),
    ({'eval': {'beams': 30}}, False),
    ({'eval': {'patience': 3}}, False),
    ({'checkpoint': {'init_from': 'another'}}, False),
    ({'data': {'item_text': 'generated'}}, False),
  ],
)
def test_a_recipe_is_all_that_changes_figures_but_seeds(rated, changes, is_same_recipe):
  config, _ = rated
  fields = {name: dataclasses.replace(getattr(config, name), **f) for name, f in changes.items()}
  other = dataclasses.replace(config, seed=2, **fields)
  assert (runs_lib.recipe(config) == runs_lib.recipe(other)) == is_same_recipe


def test_a_recipe_has_the_beams_of_the_evaluation_and_the_recipe_of_the_first_parameters(
  rated, tmp_path
):
  config, _ = rated
  assert runs_lib.recipe(config, {'eval': {'beams': 30}}) != runs_lib.recipe(config)
  chains = []
  for seed, size in ((0, 64), (1, 64), (2, 32)):
    earlier = dataclasses.replace(config, seed=seed, batch_size=size)
    folder = tmp_path / f'first_{seed}'
    folder.mkdir()
    (folder / 'config.json').write_text(json.dumps(earlier.to_dict()))
    start = dataclasses.replace(config.checkpoint, init_from=str(folder))
    chains.append(runs_lib.recipe(dataclasses.replace(config, seed=seed, checkpoint=start)))
  assert chains[0] == chains[1] != chains[2]


def test_a_pattern_names_the_other_workdirs(runs, tmp_path):
  (tmp_path / 'a_0.log').write_text('')
  (tmp_path / 'a_notes').mkdir()
  asked = contenders.names(['a_1', 'a_*', 'a_[01]:transitions'])
  assert asked == [
    ('a_1', 'model'),
    ('a_0', 'model'),
    ('a_0', 'transitions'),
    ('a_1', 'transitions'),
  ]
  found = compare(['b', 'a_*'], tmp_path / 'out')
  assert found['contenders'][1]['workdirs'] == ['a_0', 'a_1']
  with pytest.raises(ValueError, match=r"none matches 'x_\*'"):
    compare(['b', 'x_*'], tmp_path / 'out')


def test_a_baseline_that_is_a_named_run_is_left_out(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a', config, dataset, rankings(dataset, 0, 0.3), baselines=('sasrec', 'graph'))
  write(tmp_path / 'sas', config, dataset, rankings(dataset, 50, 0.2), batch_size=128)
  found = compare(['a', 'sas'], tmp_path / 'out')
  assert [each['name'] for each in found['contenders']] == ['a', 'sas', 'graph']


def test_a_single_user_has_no_interval(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a', config, dataset, rankings(dataset, 0, 0.3), has_single=True)
  found = compare(['a'], tmp_path / 'out')
  bucket = found['splits']['hop']['buckets']['single']
  assert (bucket['rows'], bucket['users']) == (1, 1)
  row = bucket['differences']['popularity']['recall@10']
  assert {row[name] for name in ('stderr', 'low', 'high', 'p')} == {None}
  assert found['splits']['hop']['ranges'] == {'single': [1234, 5678]}
  assert 'single (1,234–5,678)' in (tmp_path / 'out' / 'compare.html').read_text()


def test_a_run_is_compared_with_one_of_its_baselines(runs, tmp_path):
  found = compare(['a_0:transitions', 'a_0'], tmp_path / 'out')
  assert found['reference'] == 'a_0: transitions'
  assert list(found['differences']) == ['a_0', 'popularity']
  forth = compare(['a_0'], tmp_path / 'back')['differences']['transitions']['ndcg@10']['mean']
  assert found['differences']['a_0']['ndcg@10']['mean'] == pytest.approx(-forth)


def test_the_page_escapes_names_and_holds_no_other_figure(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  name = '<script>alert(1)<!-- &'
  write(tmp_path / name, config, dataset, rankings(dataset, 0, 0.3))
  found = compare([name], tmp_path / 'out')
  checker = Checker()
  text = (tmp_path / 'out' / 'compare.html').read_text()
  checker.feed(text)
  assert not checker.open
  assert name in ' '.join(checker.texts)
  assert '<script>alert' not in text and len(text) < 5e6
  assert all('alert(1)' not in script for script in checker.scripts)
  shown = {f'{each["metrics"]["ndcg@5"]["mean"]:.4f}' for each in found['contenders']}
  assert all(any(figure in part for part in checker.texts) for figure in shown)
  assert len(checker.plots) == 1 + len(found['splits'])


@pytest.mark.parametrize(
  ('workdirs', 'changes', 'message'),
  [
    (['a', 'other'], {'digests': {'interactions': 'x'}}, "a and other differ in the digest of the interactions ('"),
    (['a', 'other'], {'protocol': {'split': 'leave_one_out', 'exclude_seen': False}},
     'differ in exclude_seen (True and False)'),
    (['a', 'other'], {'rows': slice(1, None)}, 'differ in the number of test rows ('),
    (['other', 'a'], {'labelled': slice(1, None)}, 'rows.parquet must be of the evaluation in evaluation.json; they differ in rows'),
    (['other'], {'baselines': ()}, '--workdirs must name two rankings; other is one and has no baselines'),
    (['a', './a/'], {}, 'must name each run once; ./a/ is named twice'),
    (['a', 'a:model'], {}, 'must name each run once; a:model is named twice'),
    (['.'], {}, '--workdirs must name workdirs of runs; . has no config.json'),
    ([' '], {}, '--workdirs must name at least one evaluated run'),
    (['a', 'a:transition'], {}, "one of popularity, transitions; got 'a:transition'; did you mean transitions?"),
    (['a', 'absent'], {}, 'absent does not exist'),
  ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
  rated, tmp_path, monkeypatch, workdirs, changes, message
):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a', config, dataset, rankings(dataset, 0, 0.3))
  write(tmp_path / 'other', config, dataset, rankings(dataset, 1, 0.3), **changes)
  with pytest.raises((ValueError, OSError)) as caught:
    compare(workdirs, tmp_path / 'out')
  assert message in str(caught.value) and '\n' not in str(caught.value)
  assert not (tmp_path / 'out').exists()


def test_the_message_names_other_data_and_other_samples(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  lists = rankings(dataset, 0, 0.3)
  toys = dataclasses.replace(config.data, name='toys')
  write(tmp_path / 'a', config, dataset, lists, rows=slice(1, None))
  write(tmp_path / 'b', config, dataset, lists, rows=slice(-1))
  write(tmp_path / 'c', config, dataset, lists, digests={'interactions': 'x'}, data=toys)
  with pytest.raises(
    ValueError, match=r'differ in the rows and users and targets of their predictions'
  ):
    compare(['a', 'b'], tmp_path / 'out')
  with pytest.raises(
    ValueError, match=r"digest of the interactions .*, data\.name \('.+' and 'toys'\)"
  ):
    compare(['b', 'c'], tmp_path / 'out')


def test_a_workdir_without_predictions_is_refused(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  lists = rankings(dataset, 0, 0.3)
  write(tmp_path / 'a', config, dataset, lists)
  write(tmp_path / 'b', config, dataset, lists)
  file = tmp_path / 'b' / 'predictions' / 'test' / 'retrieval.parquet'
  file.unlink()
  with pytest.raises(ValueError, match=r'no predictions of retrieval .* --mode=evaluate'):
    compare(['a', 'b'], tmp_path / 'out')
  for each in file.parent.rglob('*.parquet'):
    each.unlink()
  with pytest.raises(ValueError, match=r'this workdir has none\. Run --mode=evaluate'):
    compare(['a', 'b'], tmp_path / 'out')


def test_names_of_several_seeds_are_their_common_beginning():
  assert contenders._common(['beauty_10', 'beauty_11']) == 'beauty (2 seeds)'
  assert contenders._common(['3', '4']) == '3, 4'
  assert contenders._common(['a1/run', 'a2/run']) == 'a (2 seeds)'


def test_files_of_another_evaluation_are_refused(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  lists = rankings(dataset, 0, 0.3)
  write(tmp_path / 'a', config, dataset, lists)
  seen = {'split': 'leave_one_out', 'exclude_seen': False}
  write(tmp_path / 'b', config, dataset, lists, protocol=seen)
  places = [tmp_path / name / 'predictions' / 'test' / 'rows.parquet' for name in 'ab']
  places[0].write_bytes(places[1].read_bytes())
  message = r'rows.parquet must be of the evaluation in .* in protocol\.'
  with pytest.raises(ValueError, match=message):
    compare(['a'], tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_names_are_the_shortest_unique_ends_of_paths():
  asked = contenders.names(['x/run/', 'y/run', 'y/other:popularity'])
  assert asked == [('x/run', 'model'), ('y/run', 'model'), ('y/other', 'popularity')]
  labels = contenders._labels([folder for folder, _ in asked])
  assert labels == {'x/run': 'x/run', 'y/run': 'y/run', 'y/other': 'other'}


def test_an_evaluation_without_its_settings_is_refused(rated, tmp_path, monkeypatch):
  config, dataset = rated
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a', config, dataset, rankings(dataset, 0, 0.3))
  file = tmp_path / 'a' / 'evaluation.json'
  results = json.loads(file.read_text())
  del results['eval']
  file.write_text(json.dumps(results))
  with pytest.raises(
    ValueError, match=r'must hold the settings of the evaluation, eval\.ks; it has none'
  ):
    compare(['a'], tmp_path / 'out')
