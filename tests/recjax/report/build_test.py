"""report.json: the keys that programs read, and the report of a workdir."""

import dataclasses
import html
import json
import re

from etils import epath
import pytest

from recjax.report import build, numbers
from recjax.report.page import render
from recjax.runtime.files import code_commit
from recjax.workdir import evaluation_file, mixture_file, predictions
from tests.recjax.report import reports


def test_json_has_the_keys_that_programs_read(tmp_path):
  build.write_report(tmp_path, reports.report())
  assert sorted(path.name for path in tmp_path.iterdir()) == ['report.html', 'report.json']
  report = json.loads((tmp_path / 'report.json').read_text())
  for split in ('validation', 'test'):
    assert {'recall@10', 'recall@10_stderr', 'ndcg@10'} <= set(report['metrics'][split])
  assert report['baselines']['transitions']['recall@10'] == 0.0707
  assert report['baselines']['transitions']['validation']['recall@10'] == 0.08
  assert report['data']['users'] == 22363
  assert report['sids']['statistics']['colliding_items'] == 1234
  assert report['throughput'] == {'steps_per_sec': 2.0, 'tokens_per_sec': 4e3}
  assert report['curves']['validation/ndcg@10'][-1] == [500, 0.05, 0.002]
  assert len(report['curves']['loss']) == numbers.MAX_POINTS
  assert 'optimum' not in report


def test_baselines_that_were_left_out_are_named(monkeypatch):
  results = reports.results() | {'baselines_left_out': {'bpr_mf': 94.6, 'slow': 1234.0}}
  monkeypatch.setattr(reports, 'results', lambda: results)
  report = reports.report()
  assert report['baselines_left_out'] == results['baselines_left_out']
  page = html.unescape(render(report))
  assert 'tenth of the training: bpr_mf (about 95 s), slow (about 1,234 s). ' in page
  assert """--config.eval.baselines="('bpr_mf', 'slow')" computes them.""" in page


def test_a_report_with_nan_is_not_written(tmp_path):
  report = reports.report()
  report['metrics']['test']['recall@10'] = float('nan')
  with pytest.raises(ValueError, match='nan'):
    build.write_report(tmp_path, report)
  assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_left_out_of_curves():
  rows = [
    {'step': 1, 'loss': None, 'steps_per_sec': float('inf')},
    {'step': 2, 'loss': 3.0, 'validation/ndcg@10': float('nan')},
  ]
  report = reports.report(trainings=[reports.training(rows=rows)])
  assert report['curves'] == {'loss': [[2.0, 3.0]], 'validation/ndcg@10': []}
  assert report['throughput'] == {}


@pytest.fixture
def evaluated(tiny_world, tmp_path):
  """The config and the data of the tiny world, and a workdir with an evaluation."""
  config, dataset = tiny_world
  rows = {split: dataset.num_rows(split) for split in ('validation', 'test')}
  results = reports.results(0.4) | {
    'step': 12,
    'rows': rows,
    'unreachable_targets': dict.fromkeys(rows, 0),
    'eval': json.loads(json.dumps(dataclasses.asdict(config.eval))),
    'rows_per_sec': 31.5,
    'data': evaluation_file.data_record(dataset, 'synthetic'),
  }
  workdir = epath.Path(tmp_path)
  evaluation_file.write(workdir, results)
  return config, dataset, workdir, results


def test_the_report_of_a_run_is_written(evaluated):
  config, dataset, workdir, results = evaluated
  build.report_run(config, workdir, dataset, 17)
  report = json.loads((workdir / 'report.json').read_text())
  assert report['metrics'] == results['metrics']
  assert report['baselines'] == results['baselines']
  optimum = json.loads((dataset.folder / 'optimum/optimum.json').read_text())
  assert report['optimum'] == optimum['test'] | {'validation': optimum['validation']}
  assert report['optimum_share']['recall@10'] == 0.4 / optimum['test']['recall@10']
  assert report['run']['parameters'] == 17
  assert report['run']['best_step'] == 12
  assert report['sids']['quality'] == json.loads((dataset.folder / 'sids/quality.json').read_text())
  written = json.loads((dataset.folder / 'sids/sids.json').read_text())
  assert {name: report['sids'][name] for name in written} == written
  examples = report['sids']['examples']
  assert examples[1] == {
    'title': dataset.items[15]['text'],
    'sid': dataset.sids.codes_IL[15].tolist(),
  }
  assert report['config'] == json.loads(json.dumps(config.to_dict()))
  statistics = json.loads((dataset.folder / 'interactions/statistics.json').read_text())
  assert report['data'] == {'item_text': 'synthetic', **statistics}
  assert report['earlier_stages'] == report['warnings'] == [] and report['goodput'] is None


def test_the_report_of_a_run_with_stages_is_written(evaluated):
  config, dataset, workdir, _ = evaluated
  stages = [('first', workdir / 'stages/first'), ('last', workdir)]
  for (_, folder), loss in zip(stages, (8.0, 4.0), strict=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'loss': loss}) + '\n')
    mixture_file.write(folder, [reports.mixture_row('next_item', units=int(loss))])
  process = reports.process({'stages/first': (0, 1, 2.5), '.': (0, 1, 1.5)})
  (workdir / 'goodput.json').write_text(json.dumps({'processes': [process]}))
  build.report_run(config, workdir, dataset, 17, stages)
  report = json.loads((workdir / 'report.json').read_text())
  assert (report['stage'], report['curves']['loss']) == ('last', [[1, 4.0]])
  (earlier,) = report['earlier_stages']
  assert (earlier['name'], earlier['curves']['loss']) == ('first', [[1, 8.0]])
  assert earlier['mixture'] == [reports.mixture_row('next_item', units=8)]
  assert report['mixture'] == [reports.mixture_row('next_item', units=4)]
  assert (report['goodput']['steps'], report['goodput']['goodput']) == (2, 0.6)


def test_a_damaged_file_of_predictions_gives_a_warning(evaluated):
  config, dataset, workdir, results = evaluated
  path = predictions.path(workdir, 'test', 'retrieval')
  path.parent.mkdir(parents=True)
  path.write_text('no Parquet')
  build.report_run(config, workdir, dataset, 17)
  report = json.loads((workdir / 'report.json').read_text())
  (warning,) = report['warnings']
  assert warning.startswith('There are no worked examples: ') and str(path) in warning
  assert 'examples' not in report and 'published' not in report
  assert len(report['sid_map']['points']) == dataset.num_items
  assert report['metrics'] == results['metrics']


def test_statistics_are_of_the_loaded_data(evaluated, tmp_path):
  """A preparation that replaces files during a run does not reach its report."""
  config, dataset, workdir, _ = evaluated
  assert dataset.statistics and dataset.sid_description
  sids = dataset.folder / 'sids/sids.json'
  before = sids.read_text()
  try:
    sids.write_text(before.replace('"levels": 3', '"levels": 9'))
    build.report_run(config, workdir, dataset, 17)
  finally:
    sids.write_text(before)
  report = json.loads((workdir / 'report.json').read_text())
  assert report['sids']['levels'] == len(report['sids']['codes_per_level']) == 3


def test_a_report_needs_an_evaluation(tiny_world, tmp_path):
  config, dataset = tiny_world
  with pytest.raises(ValueError, match=r'evaluation.json must exist.*--mode=evaluate'):
    build.report_run(config, tmp_path, dataset, 17)
  for text in ('', '[]', '{"step": 1}'):
    (tmp_path / 'evaluation.json').write_text(text)
    with pytest.raises(ValueError, match=r'evaluation.json must hold .*it is damaged'):
      build.report_run(config, tmp_path, dataset, 17)


def test_code_versions_lists_python_and_packages():
  assert re.fullmatch(r'[0-9a-f]{40}(-dirty)?', code_commit() or '0' * 40)
  assert {'python', 'jax', 'flax'} <= set(build.code_versions())
