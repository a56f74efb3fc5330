"""Traces of selected steps, and training that continues if the profiler fails."""

import gzip
import json
import logging

import jax
import jax.numpy as jnp
import pytest

from recjax.runtime import profile
from recjax.schema.run import Profile


def steps_with(config, workdir, steps):
  """Runs steps like training: each is dispatched without waiting for it; returns the number of waits."""
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
  """Returns the step numbers of every trace below the folder, one set for each trace."""
  found = []
  for path in sorted(folder.rglob('*.trace.json.gz')):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    numbers = {int(e['args']['step_num']) for e in events if 'step_num' in e.get('args', {})}
    found.append(numbers)
  return found


def test_only_the_selected_steps_are_traced(tmp_path):
  config = Profile(steps=(3, 4))
  assert steps_with(config, tmp_path, range(1, 7)) == 2
  assert traced(tmp_path) == [{3, 4}]
  assert [path.name for path in tmp_path.iterdir()] == ['profile']
  assert steps_with(config, tmp_path / 'later', range(5, 7)) == 0
  assert not (tmp_path / 'later').exists()


def test_a_run_that_starts_or_ends_within_the_steps_keeps_its_trace(tmp_path):
  config = Profile(steps=(2, 9), folder=str(tmp_path / 'here'))
  steps_with(config, tmp_path / 'workdir', [8, 9, 10])
  assert traced(tmp_path / 'here') == [{8, 9}]
  profiler = profile.Profiler(config, tmp_path)
  with pytest.raises(KeyboardInterrupt), profiler, profiler.step(2, lambda: None):
    raise KeyboardInterrupt
  steps_with(config, tmp_path, [9])  # the profiler was stopped


def test_other_hosts_trace_only_if_the_config_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  steps_with(Profile(steps=(1, 1)), tmp_path, [1])
  assert not list(tmp_path.iterdir())
  steps_with(Profile(steps=(1, 1), hosts='all'), tmp_path, [1])
  assert traced(tmp_path / 'profile' / 'process_1') == traced(tmp_path) == [{1}]


@pytest.mark.parametrize('name', ['start_trace', 'stop_trace'])
def test_a_profiler_error_is_a_warning(tmp_path, monkeypatch, caplog, name):
  def fails(*_):
    raise RuntimeError('no room')

  with monkeypatch.context() as patch:
    patch.setattr(jax.profiler, name, fails)
    with caplog.at_level(logging.WARNING):
      steps_with(Profile(steps=(1, 2)), tmp_path, range(1, 5))
  if name == 'stop_trace':
    jax.profiler.stop_trace()
  assert len(caplog.records) == 1
  assert 'RuntimeError: no room; training continues' in caplog.text


@pytest.mark.parametrize('steps', [(1,), (0, 2), (3, 2), (1, 2, 3)])
def test_steps_must_be_a_first_and_a_last_step(steps):
  with pytest.raises(ValueError, match=r'profile.steps must be .*Set --config.profile.steps'):
    Profile(steps=steps)
