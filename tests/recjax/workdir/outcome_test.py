"""The closing line of a run, from the files in its workdir."""

import dataclasses
import json

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.metrics.selection import Selection
from recjax.workdir import identity, outcome


def write_run(folder, scores, steps, patience=0, epochs=True):
  """Writes a run of three steps an epoch, with an evaluation every ten steps."""
  config = config_lib.from_config_dict(demo.get_config('tiny'))
  evaluation = dataclasses.replace(config.eval, patience=patience)
  config = dataclasses.replace(config, num_train_steps=steps, eval=evaluation)
  identity.write_config(config, epath.Path(folder))
  rows = []
  for step in range(1, 10 * len(scores) + 1):
    row = {'step': step, 'loss': 1.0} | ({'epoch': step / 3} if epochs else {})
    if step % 10 == 0:
      row['validation/ndcg@10'] = scores[step // 10 - 1]
    rows.append(row)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return config


def results(folder, config, best, recall, transitions, popularity, stderr=0.01):
  return {
    'training': outcome.of_training(epath.Path(folder), config, best),
    'metrics': {'test': {'recall@10': recall, 'recall@10_stderr': stderr}},
    'baselines': {
      'popularity': {'recall@10': popularity},
      'transitions': {'recall@10': transitions},
    },
  }


def test_training_seconds_are_those_of_all_steps(tmp_path):
  assert outcome.training_seconds(epath.Path(tmp_path)) is None
  process = {
    'seconds': {'steps': 30.0, 'input_wait': 2.0, 'compile': 100.0, 'evaluation': 50.0},
    'trainings': {'.': {'from': 0, 'to': 5, 'seconds': 32.0}},
  }
  (tmp_path / 'goodput.json').write_text(
    json.dumps({'processes': [process, process | {'trainings': {}}]})
  )
  assert outcome.training_seconds(epath.Path(tmp_path)) == 64.0


def test_a_run_without_patience_left(tmp_path):
  config = write_run(tmp_path, [0.1, 0.3, 0.2, 0.2, 0.3], 900, patience=3)
  found = results(tmp_path, config, 20, 0.33, 0.31, 0.12)
  assert outcome.closing(found) == (
    'best at epoch 6.7 of 16.7 (step 20 of 50); test recall@10: popularity 0.1200, transition counting 0.3100, this '
    'model 0.3300; stopped because ndcg@10 of the validation sample did not improve in 3 evaluations.'
  )
  assert found['training']['num_epochs'] == pytest.approx(300)
  assert outcome.losses(found) == []


def test_the_newest_of_equal_evaluations_is_not_called_an_improvement(tmp_path):
  config = write_run(tmp_path, [0.1, 0.5, 0.5, 0.5], 900, patience=2)
  line = outcome.closing(results(tmp_path, config, 40, 0.33, 0.31, 0.12))
  assert line.startswith('best at epoch 13.3 of 13.3 (step 40 of 40, equal to step 20); ')
  assert line.endswith('did not improve in 2 evaluations.')


def test_a_model_that_loses_says_so(tmp_path):
  config = write_run(tmp_path, [0.1, 0.3], 20)
  found = results(tmp_path, config, 20, 0.30, 0.31, 0.12, stderr=0.02)
  assert outcome.closing(found).endswith(
    '; stopped because all 20 steps are done. The model loses to transition counting by less than a standard error.'
  )
  line = outcome.closing(results(tmp_path, config, 20, 0.3, 0.4, 0.3))
  assert line.endswith(
    'The model loses to transition counting. The model is no better than popularity.'
  )
  assert 'standard error' not in outcome.closing(results(tmp_path, config, 20, 0.3, 0.4, 0.1))
  both = outcome.losses(results(tmp_path, config, 20, 0.1, 0.4, 0.2))
  assert [line.split(':')[0] for line in both] == [
    'The model loses to popularity',
    'The model loses to transition counting',
  ]


def test_an_unfinished_run_and_one_of_an_earlier_version(tmp_path):
  config = write_run(tmp_path, [0.1, 0.3], 100, epochs=False)
  found = results(tmp_path, config, 10, 0.33, 0.31, 0.12)
  assert found['training']['stopped'] is None
  line = outcome.closing(found)
  assert line.startswith('best at step 10 of 20; test recall@10')
  assert line.endswith('not finished: 100 steps are planned.')
  del found['training']  # evaluation.json of an earlier version
  assert outcome.closing(found).startswith('test recall@10: popularity')


def test_patience_counts_evaluations_without_a_better_one():
  def is_out(scores, patience):
    found = [(0, {'ndcg@10': score}) for score in scores]
    return outcome.is_patience_out(found, patience, Selection('retrieval', 'ndcg@10'))

  assert not is_out([3, 2, 1], 0)
  assert not is_out([3, 2, 1], 3)
  assert is_out([3, 2, 1, 3], 3)
  assert not is_out([3, 2, 1, 4], 3)
