"""Traces of chosen steps, and a training that goes on where the profiler fails."""

import gzip
import json
import logging

import jax
import jax.numpy as jnp
import pytest

from recjax.runtime import profile
from recjax.schema.run import Profile


def steps_with(config, workdir, steps):
  """Runs such steps as training does: each is dispatched, and the one before is waited for."""
  waits, pending = [], []
  double = jax.jit(lambda x: x * 2)

  def wait():
    waits.append(1)
    jax.block_until_ready(pending)

  with profile.Profiler(config, workdir) as profiler:
    for step in steps:
      with profiler.step(step, wait):
        pending[:] = [double(jnp.ones(8))]
  return len(waits)


def traced(folder):
  """The numbers of the steps in every trace below the folder, one set a trace."""
  found = []
  for path in sorted(folder.rglob('*.trace.json.gz')):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    numbers = {int(e['args']['step_num']) for e in events if 'step_num' in e.get('args', {})}
    found.append(numbers)
  return found


def test_a_trace_appears_for_the_chosen_steps_alone(tmp_path):
  config = Profile(steps=(3, 4))
  assert steps_with(config, tmp_path, range(1, 7)) == 2
  assert traced(tmp_path) == [{3, 4}]
  assert [path.name for path in tmp_path.iterdir()] == ['profile']
  assert steps_with(config, tmp_path / 'later', range(5, 7)) == 0
  assert not (tmp_path / 'later').exists()


def test_a_run_that_ends_or_begins_within_the_steps_keeps_what_there_was(tmp_path):
  config = Profile(steps=(2, 9), folder=str(tmp_path / 'here'))
  steps_with(config, tmp_path / 'workdir', [8, 9, 10])
  assert traced(tmp_path / 'here') == [{8, 9}]
  profiler = profile.Profiler(config, tmp_path)
  with pytest.raises(KeyboardInterrupt), profiler, profiler.step(2, lambda: None):
    raise KeyboardInterrupt
  steps_with(config, tmp_path, [9])  # the profiler is free again


def test_hosts_other_than_the_first_trace_only_if_told(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  steps_with(Profile(steps=(1, 1)), tmp_path, [1])
  assert not list(tmp_path.iterdir())
  steps_with(Profile(steps=(1, 1), hosts='all'), tmp_path, [1])
  assert traced(tmp_path / 'profile' / 'process_1') == traced(tmp_path) == [{1}]


@pytest.mark.parametrize('name', ['start_trace', 'stop_trace'])
def test_an_error_of_the_profiler_is_a_warning(tmp_path, monkeypatch, caplog, name):
  def fails(*_):
    raise RuntimeError('no room')

  with monkeypatch.context() as patch:
    patch.setattr(jax.profiler, name, fails)
    with caplog.at_level(logging.WARNING):
      steps_with(Profile(steps=(1, 2)), tmp_path, range(1, 5))
  if name == 'stop_trace':
    jax.profiler.stop_trace()
  assert len(caplog.records) == 1
  assert 'RuntimeError: no room; training goes on' in caplog.text


@pytest.mark.parametrize('steps', [(1,), (0, 2), (3, 2), (1, 2, 3)])
def test_steps_must_be_the_first_and_the_last(steps):
  with pytest.raises(ValueError, match=r'the first and the last step.*Set --config.profile.steps'):
    Profile(steps=steps)
