"""Each second belongs to one phase, also with nesting, compilation, kills and restarts."""

import dataclasses
import json
import logging
import random
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

from recjax.data import loader
from recjax.evaluate import make_context
from recjax.runtime import goodput
from recjax.sharding import mesh as mesh_lib
from recjax.train import train
from recjax.workdir.metrics_file import read_metrics
from tests.folders import ROOT

TRACE = '/jax/core/compile/jaxpr_trace_duration'


class Time:
  """A clock that a test moves."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def test_nested_seconds_belong_to_the_innermost_phase():
  now = Time()
  clock = goodput.Clock(age=5.0, now=now)
  now.now += 2
  with clock.phase('steps'):
    now.now += 10
    with pytest.raises(KeyError), clock.phase('evaluation'):
      now.now += 3
      raise KeyError
    now.now += 1
  now.now += 4
  found = clock.seconds()
  assert {name: s for name, s in found.items() if s} == {
    'start_up': 5 + 2 + 4, 'steps': 11, 'evaluation': 3
  }  # fmt: skip
  assert sum(found.values()) == 25
  with pytest.raises(ValueError, match=r'a phase must be one of steps.*got .dinner.'):
    clock.phase('dinner').__enter__()


def test_compilation_is_counted_once_and_only_in_the_clocks_thread():
  now = Time()
  clock = goodput.Clock(now=now)
  with clock.phase('steps'):
    now.now += 10
    clock.on_event(TRACE, 1.0, fun_name='inner')  # from 9 to 10
    now.now += 1
    clock.on_event(TRACE, 4.0, fun_name='outer')  # from 7 to 11: includes the inner one
    now.now += 2
    clock.on_event('/jax/core/compile/backend_compile_duration', 2.0)
    clock.on_event('/jax/compilation_cache/compile_time_saved_sec', 60.0)
    thread = threading.Thread(target=clock.on_event, args=(TRACE, 3.0))
    thread.start()
    thread.join()
    now.now += 3
  found = clock.seconds()
  assert (found['compile'], found['steps'], found['start_up']) == (6.0, 10.0, 0.0)


@pytest.mark.parametrize('seed', range(5))
def test_seconds_equal_a_count_second_by_second(seed):
  generator = random.Random(seed)
  now, counted = Time(), dict.fromkeys(goodput.PHASES, 0)
  clock = goodput.Clock(now=now)

  def pass_time(phase, depth):
    for _ in range(generator.randint(1, 5)):
      seconds = generator.randint(1, 9)
      now.now += seconds
      compiled = generator.choice((0, seconds, seconds // 2))
      if compiled:
        clock.on_event(TRACE, compiled)
      counted['compile'] += compiled
      counted[phase] += seconds - compiled
      if depth < 3 and generator.random() < 0.5:
        inner = generator.choice(goodput.PHASES)
        with clock.phase(inner):
          pass_time(inner, depth + 1)

  pass_time('start_up', 0)
  assert clock.seconds() == counted
  assert sum(clock.seconds().values()) == now.now - 100


def process(trainings, **seconds):
  return {
    'began': '', 'ended': None, 'first_step_after': None, 'seconds': seconds,
    'trainings': {name: {'from': a, 'to': b, 'seconds': s} for name, (a, b, s) in trainings.items()},
  }  # fmt: skip


def test_repeated_steps_are_lost():
  processes = [
    process(
      {'stages/a': (0, 10, 20.0), '.': (0, 100, 50.0)}, steps=63.0, input_wait=7.0, compile=5.0
    ),
    process({'.': (80, 90, 10.0)}, steps=9.0, input_wait=1.0),
    # The newest checkpoint was damaged, so this process restored an earlier one.
    process({'.': (60, 200, 70.0)}, steps=70.0, start_up=25.0),
  ]
  found = goodput.summary(processes)
  lost = 50.0 * 40 / 100 + 10.0
  assert found['lost_steps'] == 40 + 10
  assert found['steps'] == 10 + 200
  assert found['starts'] == 3
  assert found['seconds']['lost'] == pytest.approx(lost)
  assert found['wall_seconds'] == pytest.approx(180)
  assert sum(found['shares'].values()) == pytest.approx(1)
  assert found['seconds']['steps'] + found['seconds']['input_wait'] == pytest.approx(150 - lost)
  assert found['goodput'] == pytest.approx(142 * (1 - lost / 150) / 180)
  line = goodput.describe(found)
  assert line.startswith(
    'goodput 63.1% of 180 s in 210 steps, 3 starts, 50 steps lost; remaining time: lost 16.7%'
  )


def test_the_next_process_is_appended_to_a_killed_one(tmp_path):
  for start in (0, 3):
    now = Time()
    clock = goodput.Clock(age=1.0, now=now)
    record = goodput.Record(tmp_path, clock)
    assert start or not list(tmp_path.iterdir())  # no file before the training starts
    with clock.phase('steps'):
      record.training(tmp_path / 'stages' / 'a', start)
      for step in range(start + 1, start + 5):
        now.now += 2
        record.done(step)
      record.write()
    # Killed, while it wrote the file once more.
    (tmp_path / '.goodput.json.00.partial').write_text('{')
  first, second = json.loads((tmp_path / 'goodput.json').read_text())['processes']
  assert first['trainings'] == {'stages/a': {'from': 0, 'to': 4, 'seconds': 8.0}}
  assert second['trainings'] == {'stages/a': {'from': 3, 'to': 7, 'seconds': 8.0}}
  assert first['ended'] is second['ended'] is None
  assert first['first_step_after'] == 3.0
  assert goodput.summary([first, second])['seconds']['lost'] == 2.0
  assert len(list(tmp_path.iterdir())) == 2  # one partial file: the first was removed


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path, caplog):
  record = goodput.Record(tmp_path / 'gone', goodput.Clock())
  record.training(tmp_path / 'gone', 0)
  for step in (1, 2):
    record.done(step)
    record.write()
  record.close('done')
  [warning] = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
  assert 'goodput.json could not be written' in warning and 'training continues' in warning


def test_a_damaged_file_is_renamed_with_a_warning(tmp_path, caplog):
  (tmp_path / 'goodput.json').write_text('{"processes": [{"seconds"')
  with caplog.at_level(logging.WARNING):
    assert goodput.read(tmp_path) == []
  assert 'goodput.json.damaged' in caplog.text
  assert [path.name for path in tmp_path.iterdir()] == ['goodput.json.damaged']


def test_the_sum_is_the_wall_time_of_a_real_process(tmp_path):
  program = """
import sys, time
import jax, jax.numpy as jnp
from recjax.runtime import goodput
with goodput.recorded(sys.argv[1]):
  with goodput.phase('steps'):
    goodput.training(sys.argv[1], 0)
    jax.block_until_ready(jax.jit(lambda x: jnp.sin(x @ x) + jnp.cos(x))(jnp.ones((64, 64))))
    with goodput.phase('input_wait'):
      time.sleep(0.4)
    goodput.done(1)
  with goodput.phase('checkpoint'):
    time.sleep(0.3)
"""
  begin = time.monotonic()
  subprocess.run([sys.executable, '-c', program, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
  wall = time.monotonic() - begin
  found = json.loads((tmp_path / 'goodput.json').read_text())
  seconds, (process,) = found['summary']['seconds'], found['processes']
  # The exit of the interpreter is not counted; the system rounds a process's age to 0.01 s.
  assert 0.5 * wall < found['summary']['wall_seconds'] < wall + 0.02
  assert found['summary']['wall_seconds'] == pytest.approx(sum(process['seconds'].values()))
  assert 0.4 <= seconds['input_wait'] < 2
  assert 0.3 <= seconds['checkpoint'] < 2
  assert seconds['compile'] > 0.01
  assert seconds['start_up'] > 0.3  # the imports
  assert process['ended'] == 'done'


def test_a_resumed_run_counts_both_processes_and_the_lost_steps(
  tiny_world, tmp_path, monkeypatch, caplog
):
  config, dataset = tiny_world
  config = dataclasses.replace(
    config, num_train_steps=8, checkpoint_every_steps=4, eval_every_steps=8, log_every_steps=1,
    eval=dataclasses.replace(config.eval, eval_users=16),
  )  # fmt: skip
  mesh = mesh_lib.make_mesh(config.mesh)
  context, workdir = make_context(config, dataset, mesh), epath.Path(tmp_path)
  host_batch = loader.Stream.host_batch

  def ends_after_seven(self, examples_seen, host, hosts):
    if examples_seen >= 7 * self.examples_per_batch:
      raise KeyboardInterrupt
    return host_batch(self, examples_seen, host, hosts)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(loader.Stream, 'host_batch', ends_after_seven)
    with goodput.recorded(workdir):
      train(config, workdir, context)
  with caplog.at_level(logging.INFO), goodput.recorded(workdir):
    train(config, workdir, context)
  found = json.loads((tmp_path / 'goodput.json').read_text())
  first, second = found['processes']
  assert (first['ended'], second['ended']) == ('KeyboardInterrupt', 'done')
  reached = first['trainings']['.']['to']
  assert reached in (5, 6)  # the results of the last step may not have been read
  assert (second['trainings']['.']['from'], second['trainings']['.']['to']) == (4, 8)
  assert found['summary']['lost_steps'] == reached - 4
  assert found['summary']['steps'] == 8
  seconds = found['summary']['seconds']
  assert min(seconds[name] for name in ('steps', 'compile', 'checkpoint', 'evaluation', 'lost')) > 0
  assert 0 < found['summary']['goodput'] < 1
  assert goodput.describe(found['summary']) in caplog.text
  row = read_metrics(tmp_path)[-1]
  assert 0 < row['goodput'] < 1
  assert row['compile_seconds'] > 0
  assert row['host_peak_bytes'] > 50e6
