"""The command line, as real processes: kills, several hosts, recommendations, and refusals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pytest

from bench import shop_log
from recjax.data.dataset import Dataset
from recjax.metrics import ranking
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.recommend import best_params, make_ranker
from recjax.runtime import exit_status, lock
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity
from recjax.workdir.metrics_file import read_metrics
from tests import saved
from tests.folders import ROOT

STEPS = 300


def command(*args, launcher=()):
  module = ['-m', 'launch.local', *launcher] if launcher else ['-m', 'recjax.main']
  return [sys.executable, *module, '--config=configs/demo.py:tiny', *args]


def environment():
  """Returns an environment with one device per process; the launcher may change it."""
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTEST_CURRENT_TEST')}
  return env | {'JAX_PLATFORMS': 'cpu', 'PYTHONWARNINGS': 'default'}


def run(*args, launcher=(), timeout=120):
  done = subprocess.run(
    command(*args, launcher=launcher),
    cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout + done.stderr


def run_alone(*args):
  """Runs recjax.main without --config."""
  done = subprocess.run(
    [sys.executable, '-m', 'recjax.main', *args],
    cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout + done.stderr


def checked(*args, **kwargs):
  code, output = run(*args, **kwargs)
  assert code == 0, output[-3000:]
  return output


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('main')


@pytest.fixture(scope='module')
def finished(folder):
  """The workdir of a finished run, with its report."""
  checked(*flags(folder), f'--workdir={folder / "finished"}')
  return folder / 'finished'


def flags(folder, steps=STEPS):
  return [
    f'--config.data.prepared_dir={folder / "data"}',
    f'--config.num_train_steps={steps}',
    '--config.eval_every_steps=100',
    '--config.checkpoint_every_steps=20',
    '--config.log_every_steps=100',
  ]


def kill_at_random(folder, workdir, seed):
  """Kills a run at a random moment after its first step; returns whether it was still running."""
  generator = random.Random(seed)
  metrics = workdir / 'metrics.jsonl'
  seen = len(metrics.read_text().splitlines()) if metrics.exists() else 0
  with subprocess.Popen(
    command(*flags(folder), f'--workdir={workdir}'),
    cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  ) as process:  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
      if metrics.exists() and len(metrics.read_text().splitlines()) != seen:
        break
      time.sleep(0.01)
    time.sleep(generator.uniform(0, 1.0))
    process.kill()
  return process.returncode == -signal.SIGKILL


def interrupt(folder, workdir):
  """Sends SIGINT to the group of a run, as a terminal does; returns its output."""

  def written():
    return (workdir / 'metrics.jsonl').read_text().count('\n')

  with subprocess.Popen(
    command(*flags(folder), f'--workdir={workdir}'), start_new_session=True,
    cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  ) as process:  # fmt: skip
    before = written()
    while process.poll() is None and written() <= before:
      before = min(before, written())  # the start cuts the file at the newest checkpoint
      time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
  assert process.returncode == exit_status.INTERRUPTED, output[-3000:]
  return output


def test_a_killed_run_ends_with_the_same_parameters(folder, finished):
  workdir = folder / 'killed'
  assert kill_at_random(folder, workdir, seed=0)
  output = interrupt(folder, workdir)
  assert (
    f'interrupted: step {saved.steps(workdir)[-1]} is saved; the same command resumes' in output
  )
  last = output.splitlines()[-1]
  assert 'next: python -m recjax.main --config=configs/demo.py:tiny --config.data.prepared_' in last
  assert 'Traceback' not in output
  checked(*flags(folder), f'--workdir={workdir}')
  assert saved.steps(workdir)[-1] == saved.steps(finished)[-1] == STEPS
  saved.assert_params(np.testing.assert_array_equal, workdir, finished)
  rows = read_metrics(workdir)
  assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
  assert [row['loss'] for row in rows] == [row['loss'] for row in read_metrics(finished)]
  metrics = [json.loads((w / 'report.json').read_text())['metrics'] for w in (workdir, finished)]
  assert metrics[0] == metrics[1]


def test_the_report_holds_metrics_baselines_and_optimum(finished):
  report = json.loads((finished / 'report.json').read_text())
  for metrics in (report['metrics']['validation'], report['metrics']['test']):
    for k in (1, 5, 10, 20):
      for name in ('recall', 'ndcg', 'mrr'):
        assert 0 <= metrics[f'{name}@{k}'] <= 1
        assert metrics[f'{name}@{k}_stderr'] >= 0
  assert report['baselines'].keys() >= {'popularity', 'transitions', 'item_knn', 'graph'}
  assert report['baselines']['transitions'].keys() >= report['metrics']['test'].keys()
  assert report['data']['users'] == 300
  assert report['optimum']['recall@10'] > 0.5
  assert '<html' in (finished / 'report.html').read_text()


def test_a_refresh_without_news_is_no_go(folder, finished):
  flag = (
    f'--from={finished}',
    f'--raw_dir={folder}',
    '--mode=refresh',
    '--config.num_train_steps=3',
  )
  code, output = run_alone(*flag)
  assert code == exit_status.NO_GO == 3, output[-3000:]
  assert 'NO-GO: nothing is new' in output
  assert f'keep {finished}; {finished}-2/refresh.txt names the reason' in output.splitlines()[-1]
  assert json.loads((folder / 'finished-2/refresh.json').read_text())['verdict'] == 'no-go'
  assert (folder / 'finished-2-data/sids').exists()  # not in the workdir
  code, output = run_alone(flag[0], '--raw_dir=nowhere', '--mode=refresh')
  assert code == 1
  assert '--raw_dir must be a folder; nowhere does not exist' in output
  assert 'Traceback' not in output


def test_two_processes_give_the_same_run_as_one(folder, finished):
  launcher = ('-n', '2', '--devices_per_process=4')
  workdir = folder / 'two'
  code, output = run(
    f'--config.data.prepared_dir={folder / "none"}', f'--workdir={workdir}', launcher=launcher
  )
  assert code != 0
  assert 'Run once: python -m recjax.main --config=configs/demo.py:tiny --mode=prepare' in output
  checked(*flags(folder, steps=40), f'--workdir={workdir}', launcher=launcher)
  one, two = read_metrics(finished)[:40], read_metrics(workdir)
  assert [row['step'] for row in two] == list(range(1, 41))
  # Dropout masks depend on the devices; the stream does not.
  assert [row['examples_seen'] for row in one] == [row['examples_seen'] for row in two]
  assert [row['tokens'] for row in one] == [row['tokens'] for row in two]
  reports = [json.loads((w / 'report.json').read_text()) for w in (finished, workdir)]
  # An expensive baseline is left out of a run whose training took little time.
  first, second = (report['baselines'] for report in reports)
  common = first.keys() & second.keys()
  assert common >= {'popularity', 'transitions'}
  assert {name: first[name] for name in common} == {name: second[name] for name in common}
  assert reports[1]['run']['processes'] == 2
  # Every row was evaluated once: one process on eight devices, and on one, finds the same figures.
  config = identity.config_of(epath.Path(workdir))
  dataset = Dataset.load(config.prepared)
  for devices in (jax.devices(), jax.devices()[:1]):
    mesh = mesh_lib.make_mesh(Mesh(), devices)
    params, _ = best_params(config, epath.Path(workdir), dataset, mesh)
    ranks_U = rank_rows(
      make_ranker(config, dataset, mesh), params, dataset, 'test', config.eval.ks
    ).ranks_U
    assert len(ranks_U) == dataset.num_rows('test')
    assert ranking.ranking_metrics(ranks_U, config.eval.ks) == reports[1]['metrics']['test']


def test_recommend_writes_ranked_items_for_histories(folder, finished):
  catalogue = (folder / 'data/interactions/items.jsonl').read_text()
  items = [json.loads(row)['id'] for row in catalogue.splitlines()]
  rows = [{'user': 'a', 'history': items[:5]}, {'user': 'b', 'history': []}]
  (folder / 'histories.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  out = folder / 'ranked.jsonl'
  common = [*flags(folder), f'--workdir={finished}', '--mode=recommend', f'--out={out}', '--k=7']
  checked(*common, f'--histories={folder / "histories.jsonl"}')
  ranked = [json.loads(line) for line in out.read_text().splitlines()]
  assert [row['user'] for row in ranked] == ['a', 'b']
  for row in ranked:
    got = [r['item'] for r in row['recommendations']]
    assert len(set(got)) == 7
    assert set(got) <= set(items) - set(row['history'])
    scores = [r['score'] for r in row['recommendations']]
    assert scores == sorted(scores, reverse=True)
  (folder / 'bad.jsonl').write_text('{"history": ["nobody"]}\n')
  code, output = run(*common, f'--histories={folder / "bad.jsonl"}')
  assert code == 1
  assert "bad.jsonl:1: every item must be in the catalogue; 'nobody' is not" in output
  assert 'Traceback' not in output


def test_a_moved_workdir_is_enough_from_another_folder(folder, finished):
  (folder / 'else').mkdir()
  (folder / 'moved').mkdir()
  shutil.copytree(finished, folder / 'moved/run')

  def run_there(*args):
    done = subprocess.run(
      [sys.executable, '-m', 'recjax.main', *args],
      cwd=folder / 'else', env=environment() | {'PYTHONPATH': str(ROOT)},
      capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert 'Traceback' not in done.stderr
    return done.returncode, done.stdout + done.stderr

  before = json.loads((finished / 'report.json').read_text())['metrics']
  (folder / 'moved/run/report.json').unlink()
  code, output = run_there('--workdir=../moved/run', '--mode=report')
  assert code == 0, output
  assert json.loads((folder / 'moved/run/report.json').read_text())['metrics'] == before
  code, output = run_there('--workdir=../moved/run', '--mode=report', '--config.eval.beams=30')
  assert code == 1
  assert (
    '--config.eval.beams has no effect with --mode=report; got 30, the workdir has 20' in output
  )
  code, output = run_there('--workdir=../moved/run', f'--config.num_train_steps={STEPS + 2}')
  assert code == 0, output
  assert saved.steps(folder / 'moved/run')[-1] == STEPS + 2
  changed = (folder / 'moved/run/starts.jsonl').read_text().splitlines()[-1]
  assert json.loads(changed)['changed'] == {'num_train_steps': [STEPS, STEPS + 2]}
  code, output = run_there('--workdir=../moved/run', '--config.model.width=32', '--mode=evaluate')
  assert code == 1 and 'model.width (16 in the workdir, 32 now)' in output
  absent = '--config.data.prepared_dir=absent'
  (folder / 'moved/run/paths.json').unlink()
  code, output = run_there('--workdir=../moved/run', '--mode=describe', absent)
  assert code == 1 and 'else/absent; it does not exist. Set --config.data.prepared_dir' in output
  code, output = run_there()
  assert code == 1 and '--config=recjax:table' in output and '--workdir=runs/demo --mode=' in output
  assert os.listdir(folder / 'else') == []


def test_a_workdir_in_use_is_locked_for_training_but_not_for_reading(folder, finished):
  with lock.hold(finished, 'training', wait=False, field='--workdir'):
    for launcher in ((), ('-n', '2', '--devices_per_process=4')):
      code, output = run(*flags(folder), f'--workdir={finished}', launcher=launcher)
      assert code == 1, output[-3000:]
      message = f'{finished} must be used by one process at a time; process {os.getpid()} on '
      assert message in output
      assert 'Traceback' not in output
    checked(*flags(folder), f'--workdir={finished}', '--mode=report')


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--config.modle.width=3', 'unknown config field modle.width; did you mean model.width'),
    ('--config.batch_size=-4', 'batch_size must be positive; got -4. Set --config.batch_size'),
    ('--mode=recommend --histories=h --out=o --k=41', 'from 1 to the 20 items'),
    ('--mode=recommend --histories=h --out=o', '--histories must be a file; h does not exist'),
    ('--prune', '--prune must be used with --mode=prepare; got --mode=train'),
    (
      '--mode=describe --k=3 --prune',
      '--k must be used with --mode=recommend, --prune with --mode=prepare; got',
    ),
    ('--mode=evaluate', 'must hold the checkpoints of a run; it has none. Set --workdir'),
  ],
)
def test_bad_flags_end_at_once_with_one_message(folder, finished, flag, message):
  del finished  # the data are prepared
  workdir = folder / 'refused'
  code, output = run(
    f'--config.data.prepared_dir={folder / "data"}', f'--workdir={workdir}', *flag.split()
  )
  assert code == 1
  assert message in output
  assert 'Traceback' not in output
  assert not workdir.exists()


def test_mode_config_prints_every_field_and_writes_nothing(tmp_path):
  before = os.listdir(ROOT)
  done = subprocess.run(
    command('--mode=config', f'--workdir={tmp_path / "run"}', '--config.model.depth=3'),
    cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
  assert lines['model.depth'][:4] == ['3', 'int,', 'positive', 'Layers;']
  assert 'table' in lines['data.source']  # every source is named
  assert lines['mixture.next_item.max_items'][0] == '8'
  assert 'pattern' not in lines
  assert 'stages.<name>.num_train_steps' in lines
  assert done.stderr == ''
  assert os.listdir(ROOT) == before
  assert not any(tmp_path.iterdir())


def test_mode_describe_prepares_only_the_log_and_starts_nothing(tmp_path):
  shop_log.write(tmp_path / 'raw', users=120, items=60, oddities=shop_log.ODDITIES)
  columns = {
    f'{name}_column': column for name, column in shop_log.COLUMNS.items() if name != 'price'
  }
  settings = columns | {
    'raw_dir': tmp_path / 'raw', 'prepared_dir': tmp_path / 'data', 'name': 'shop',
    'unknown_items': 'drop', 'duplicates': 'drop', 'k_core': 3,
  }  # fmt: skip
  arguments = [f'--config.data.{name}={value}' for name, value in settings.items()]
  done = subprocess.run(
    [sys.executable, '-m', 'recjax.main', f'--config={ROOT / "configs/table.py"}:cpu', *arguments,
     '--mode=describe', f'--out={tmp_path / "facts.json"}'],
    cwd=tmp_path, env=environment() | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, timeout=120,
    check=True,
  )  # fmt: skip
  assert sorted(os.listdir(tmp_path)) == ['data', 'facts.json', 'raw']
  assert sorted(name for name in os.listdir(tmp_path / 'data') if name[0] != '.') == [
    'interactions'
  ]
  assert 'interactions: channel' in done.stdout and 'items: cost' in done.stdout
  facts = json.loads((tmp_path / 'facts.json').read_text())
  reasons = [part['reason'] for part in facts['left_out']]
  assert reasons == ['unknown_items', 'duplicates', 'k_core']
  assert facts['items']['without_text'] > 0
