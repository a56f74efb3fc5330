"""Trials: judged by validation rows alone, resumable, and asked within their ranges."""

import json
import pathlib
import re
import threading
import time

from etils import epath
import pytest

pytest.importorskip('optuna')

from bench.tune import page, trials
from bench.tune.space import Range
from recjax.metrics.selection import Selection
from recjax.runtime import lock

BY = Selection('retrieval', 'ndcg@10')
RANGES = {
  'rate': Range(low=0.01, high=1.0, log=True),
  'width': Range((16, 32)),
  'depth': Range(low=1, high=3),
}
FIRST = {'rate': 0.1, 'width': 16, 'depth': 2}

# A training that is as good as its rate is near 0.2; it fails if the depth is 3 and it is told to.
PROGRAM = """
import json, pathlib, sys
params, workdir, fails = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3] == 'fails'
workdir.mkdir(parents=True, exist_ok=True)
if fails: sys.exit('the depth is too large')
value = 1 - abs(params['rate'] - 0.2)
rows = [{'step': 1, 'validation/ndcg@10': value / 2}, {'step': 2, 'validation/ndcg@10': value, 'validation/ndcg@10_stderr': 0.01},
        {'step': 3, 'loss': 1.0, 'validation/ndcg@10': value / 3}]
(workdir / 'metrics.jsonl').write_text(''.join(json.dumps(row) + chr(10) for row in rows))
(workdir / 'evaluation.json').write_text(json.dumps({'metrics': {'test': {'ndcg@10': params['rate']}}}))
"""


def command(params, workdir, mode='runs'):
  return ['-S', '-c', PROGRAM, json.dumps(params), str(workdir), mode]


def search(folder, budget, parallel=1, command=command):
  study = trials.study_in(folder, {'config': 'a'}, False, FIRST)
  trials.run(study, folder, command, RANGES, BY, budget, parallel, lambda: None)
  return trials.records(study)


def test_the_score_is_the_best_validation_value_and_no_other_file_is_read(tmp_path, monkeypatch):
  rows = [
    {'step': 5, 'loss': 2.0},
    {'step': 10, 'validation/ndcg@10': 0.1, 'validation/ndcg@10_stderr': 0.01},
    {'step': 20, 'validation/ndcg@10': 0.3, 'validation/ndcg@10_stderr': 0.02},
    {'step': 30, 'validation/ndcg@10': 0.2, 'test/ndcg@10': 0.9},
  ]
  (tmp_path / 'metrics.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  for name in ('evaluation.json', 'report.json'):  # a read of these would fail
    (tmp_path / name).mkdir()
  assert trials.score(tmp_path, BY) == trials.Score(0.3, 0.02, 20)
  lower = Selection('rating', 'rmse', lower_is_better=True)
  assert trials.score(tmp_path, lower) is None
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 1, "validation/rating/rmse": 1.5}\n{"step": 2, "validation/rating/rmse": 1.2}\n'
  )
  assert trials.score(tmp_path, lower).value == 1.2


def test_a_search_starts_from_the_config_stays_in_the_ranges_and_continues(tmp_path):
  first = search(tmp_path, 3)
  assert first[0]['settings'] == FIRST and first[0]['value'] == pytest.approx(0.9)
  assert [each['number'] for each in first] == [0, 1, 2]
  both = search(tmp_path, 6, parallel=2)
  assert both[:3] == first and len(both) == 6
  for each in both:
    assert each['state'] == 'complete' and each['step'] == 2 and each['error'] == 0.01
    assert RANGES['rate'].holds(each['settings']['rate']) and each['settings']['width'] in (16, 32)
    assert each['settings']['depth'] in (1, 2, 3)
    assert each['value'] == pytest.approx(1 - abs(each['settings']['rate'] - 0.2))
  assert len({json.dumps(each['settings']) for each in both}) > 3
  assert search(tmp_path, 6, command=None) == both  # nothing is left to do


def test_an_unfinished_trial_is_resumed_in_its_workdir(tmp_path):
  study = trials.study_in(tmp_path, {'config': 'a'}, False, FIRST)
  params = study.ask(trials.distributions(RANGES)).params  # and the search is killed
  asked = []

  def noted(params, workdir):
    asked.append((params, pathlib.Path(workdir).name))
    return command(params, workdir)

  found = search(tmp_path, 1, command=noted)
  assert asked == [(params, '000')] and [each['number'] for each in found] == [0]


def test_a_failed_trial_is_told_and_the_first_one_ends_the_search(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  with pytest.raises(ValueError, match=r'trial 0 failed, see .*000.log: the depth is too large'):
    search(tmp_path / 'a', 2, command=lambda *args: command(*args, 'fails'))
  modes = iter(['runs', 'fails', 'runs'])
  found = search(tmp_path / 'b', 3, command=lambda *args: command(*args, next(modes)))
  assert [each['state'] for each in found] == ['complete', 'fail', 'complete']


def test_another_recipe_needs_another_folder(tmp_path):
  trials.study_in(tmp_path, {'config': 'a', 'users': 4}, False, FIRST)
  with pytest.raises(
    ValueError, match=r'a search must keep users of the one in .*: 4; got 5. Set --scratch'
  ):
    trials.study_in(tmp_path, {'config': 'a', 'users': 5}, False, FIRST)


def test_a_search_that_was_killed_within_a_line_continues(tmp_path):
  search(tmp_path, 1)
  log = tmp_path / trials.STUDY
  whole = log.read_bytes()
  log.write_bytes(whole + whole.splitlines()[-1][:20])
  assert [each['state'] for each in search(tmp_path, 3)] == ['complete'] * 3
  assert [each['state'] for each in search(tmp_path, 3)] == ['complete'] * 3  # and its log is whole
  log.write_bytes(b'{"op_code": 1}\n' + log.read_bytes())
  with pytest.raises(
    ValueError, match=r'study.log must hold a search .*; it is damaged: .* --scratch'
  ):
    search(tmp_path, 3)


def test_a_trial_that_an_orphan_still_trains_waits_for_it(tmp_path, capsys):
  study = trials.study_in(tmp_path, {'config': 'a'}, False, FIRST)
  study.ask(trials.distributions(RANGES))  # and the search is killed, but not its process
  with lock.hold(
    epath.Path(tmp_path / 'trials' / '000'), 'training', wait=False, field='--workdir'
  ):
    found = []
    search_again = threading.Thread(target=lambda: found.append(search(tmp_path, 1)))
    search_again.start()
    time.sleep(0.3)
    assert search_again.is_alive() and not (tmp_path / 'trials' / '000.log').exists()
  search_again.join()
  assert [each['state'] for each in found[0]] == ['complete']
  assert re.search(r'trial 0: waits: .*000 must be used by one process', capsys.readouterr().out)


def test_the_page_has_a_table_and_plots(tmp_path):
  found = search(tmp_path, 2)
  found.append(
    {**found[0], 'number': 2, 'state': 'fail', 'value': None, 'error': None, 'step': None}
  )
  recipe = {'config': '--config=<b>', 'users': 4000}
  result = page.write(tmp_path, found, 'ndcg@10', False, recipe, 'python -m recjax.main')
  assert result == json.loads((tmp_path / page.JSON).read_text())
  assert result['best']['value'] == max(each['value'] for each in found[:2])
  assert page.best_of(found, True)['value'] == min(each['value'] for each in found[:2])
  text = (tmp_path / page.HTML).read_text()
  assert '&lt;b&gt;' in text and 'fail' in text and text.count('"best so far"') >= 1
  assert page.best_of(found[2:], False) is None
