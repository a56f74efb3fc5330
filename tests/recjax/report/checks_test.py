"""Figures that cannot be right are refused; the others come with what a reader must know."""

import copy
import dataclasses
import json
import math

import pytest

from recjax.report import checks, facts
from recjax.workdir import evaluation_file
from tests.recjax.report import reports


@pytest.fixture
def results(tiny_world):
  """An evaluation of the tiny world in which a quarter of the test targets cannot be reached."""
  config, dataset = tiny_world
  rows = {split: dataset.num_rows(split) for split in ('validation', 'test')}
  return reports.results(0.7) | {
    'rows': rows,
    'unreachable_targets': {'validation': 0, 'test': rows['test'] // 4},
    'eval': json.loads(json.dumps(dataclasses.asdict(config.eval))),
    'rows_per_sec': 31.5,
    'items_sharing_a_sid': 0,
    'data': evaluation_file.data_record(dataset, 'synthetic'),
  }


def test_possible_metrics_pass(tiny_world, results, tmp_path):
  checks.check_evaluation(results, tiny_world[1], tmp_path)
  for name in ('rows', 'unreachable_targets', 'data', 'eval'):  # as in earlier versions
    del results[name]
    checks.check_evaluation(results, tiny_world[1], tmp_path)


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('metrics.test.recall@10', 1.2, r'test metrics: recall@10 must be .* from 0 to 0.75; got 1.2'),
    ('metrics.test.recall@10', 0.76, r'from 0 to 0.75; got 0.76'),
    ('metrics.validation.ndcg@10', -0.1, r'validation metrics: ndcg@10 .* from 0 to 1; got -0.1'),
    ('metrics.validation.mrr@1', math.nan, r'mrr@1 must be a number from 0 to 1; got nan'),
    ('metrics.validation.mrr@1', None, r'mrr@1 must be a number from 0 to 1; got None'),
    ('metrics.test.recall@10_stderr', -0.1, r'recall@10_stderr must be a number from 0'),
    ('metrics.test.toy@10', math.inf, r'toy@10 must be a number; got inf'),
    ('baselines.popularity.recall@1', 2, r'baseline popularity, test: recall@1 must be'),
    ('baselines.popularity.validation.recall@1', 2, r'baseline popularity, validation: recall@1'),
    ('metrics.test', {}, r'must hold recall@10 of the test split'),
    ('rows.test', 60, r'must be of all \d+ test rows in .*; it is of 60'),
    ('data.sids', 'x', r'metrics of other data .*, which differ from .* in sids\. Run --mode'),
    ('data.interactions', 'x', r'metrics of other data .* in interactions\. Run --mode=evaluate'),
  ],
)
def test_impossible_metrics_are_refused(tiny_world, results, path, value, message):
  results = copy.deepcopy(results)
  *folders, name = path.split('.')
  place = results
  for folder in folders:
    place = place[folder]
  place[name] = value
  with pytest.raises(ValueError, match=message):
    checks.check_evaluation(results, tiny_world[1], 'evaluation.json')


def test_metrics_of_other_ranges_pass(tiny_world, results, tmp_path):
  results['metrics']['test']['mean_rank@10'] = 7.5
  checks.check_evaluation(results, tiny_world[1], tmp_path)


def test_a_sample_of_the_rows_passes_with_a_warning(tiny_world, results, tmp_path):
  config, dataset = tiny_world
  all_rows = dict(results['rows'])
  results |= {
    'rows': {'validation': 60, 'test': 60},
    'evaluators': {'retrieval': {split: {'rows': 60} for split in ('validation', 'test')}},
    'protocol': {'leakage': {'rows': all_rows}},
  }
  checks.check_evaluation(results, dataset, tmp_path)
  assert checks.ceilings(results) == {}  # the counts are those of all rows
  found = checks.warnings(results, config, dataset, [facts.Training('', [])])
  assert (
    f'The test metrics are those of a fixed sample of 60 of {dataset.num_rows("test"):,} rows.'
    in found
  )


def test_a_number_that_json_cannot_hold_is_refused(tiny_world, results):
  results['evaluators'] = {'rating': {'test': {'rmse': math.nan}}}
  with pytest.raises(ValueError, match=r'evaluators\.rating\.test\.rmse must be a finite number'):
    checks.check_evaluation(results, tiny_world[1], 'evaluation.json')


def test_an_old_evaluation_is_compared_by_its_shared_sids(tiny_world, results):
  del results['data']
  results['items_sharing_a_sid'] = 5
  with pytest.raises(ValueError, match=r'metrics of other data, which differ from .* in sids'):
    checks.check_evaluation(results, tiny_world[1], 'evaluation.json')


def test_a_consistent_run_has_no_warnings(tiny_world, results):
  config, dataset = tiny_world
  training = facts.Training('', [{'step': 400, 'loss': 1.0, 'validation/ndcg@10': 0.5}])
  assert checks.warnings(results, config, dataset, [training]) == []


def test_inconsistencies_give_warnings(tiny_world, results):
  config, dataset = tiny_world
  del results['data']
  results['eval'] |= {'beams': 99, 'removed_field': 1, 'sasrec': 'elsewhere'}
  rows = [
    {'step': 3, 'loss': None},
    {'step': 400, 'loss': 1.0, 'validation/ndcg@10': 0.5},
    {'step': 500, 'loss': math.nan, 'validation/ndcg@10': 0.6},
  ]
  data = dataclasses.replace(config.data, prepared_dir='elsewhere')
  moved = dataclasses.replace(config, data=data)
  found = checks.warnings(results, moved, dataset, [facts.Training('last', rows)])
  assert found == [
    f'Evaluated with eval.beams = 99; the config of the run has {config.eval.beams}.',
    f'The evaluation does not record its data: statistics are of the data in {dataset.folder} now.',
    f'Evaluated on the data in {dataset.folder}; the run was trained on elsewhere.',
    'Stage last: The loss was not finite at 2 steps; the first is step 3.',
    'The evaluated checkpoint of step 400 is not the best one: ndcg@10 on the validation sample is better at '
    'step 500. Run --mode=evaluate again.',
  ]
