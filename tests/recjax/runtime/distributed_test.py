"""Distributed start-up, exchanges between processes, and messages about a missing process."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import pytest

from recjax.runtime import distributed, watchdog
from recjax.schema.run import Hosts
from tests.folders import ROOT

PLACE = {'RECJAX_COORDINATOR': 'here:1', 'RECJAX_NUM_PROCESSES': '2', 'RECJAX_PROCESS_ID': '1'}
VARIABLES = (
  *PLACE, 'RECJAX_MULTIHOST', 'SLURM_NTASKS', 'SLURM_STEP_NODELIST', 'OMPI_COMM_WORLD_SIZE',
  'PMI_SIZE', 'WORLD_SIZE', 'TPU_WORKER_HOSTNAMES', 'MEGASCALE_NUM_SLICES',
)  # fmt: skip


@pytest.fixture
def joined(monkeypatch):
  """Removes the launchers' variables; returns the recorded calls of jax.distributed.initialize."""
  for name in VARIABLES:
    monkeypatch.delenv(name, raising=False)
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *args, **kw: calls.append((args, kw)))
  monkeypatch.setattr(watchdog, 'start', lambda *args, **kw: None)
  monkeypatch.setattr(distributed, 'exchange', lambda *args: None)
  return calls


def set_process_count(monkeypatch, count):
  monkeypatch.setattr(jax, 'process_count', lambda: count)
  monkeypatch.setattr(distributed.jax_distributed.global_state, 'client', object())


def test_one_process_needs_no_variables(joined):
  distributed.initialize()
  assert joined == []
  assert distributed.is_host0()


def test_a_single_process_exchanges_with_itself():
  distributed.barrier('alone')
  assert distributed.exchange('topic', 'x') == ['x']
  assert distributed.from_host0('topic', [1.5]) == [1.5]
  distributed.check_same('config', {'a': 1})


def test_an_order_that_differs_is_named(monkeypatch):
  first = {'groups': {'a': {'rate': 1}, 'b': {'rate': 2}}, 'steps': 3}
  second = {'groups': dict(reversed(first['groups'].items())), 'steps': 3}
  texts = []
  monkeypatch.setattr(distributed, 'exchange', lambda topic, text: [*texts, text])
  distributed.check_same('config', first)
  texts.append(json.dumps({'groups.a.rate': 1, 'groups.b.rate': 2, 'steps': 3}))
  distributed.check_same('config', first)
  message = (
    r'same config; process 1 differs from process 0 in the order of groups '
    r'\(groups\.b\.rate instead of groups\.a\.rate\)'
  )
  with pytest.raises(ValueError, match=message):
    distributed.check_same('config', second)


def test_initialize_passes_place_and_timeouts_to_jax(joined, monkeypatch):
  set_process_count(monkeypatch, 2)
  for name, value in PLACE.items():
    monkeypatch.setenv(name, value)
  distributed.initialize(Hosts(start_timeout=7, heartbeat_timeout=50))
  [(args, limits)] = joined
  assert args == ('here:1', 2, 1)
  # JAX's own timeouts are longer, so that ours expire first.
  assert limits['initialization_timeout'] > 7
  assert limits['heartbeat_timeout_seconds'] > 50
  assert limits['cluster_detection_method'] == 'deactivate'


@pytest.mark.parametrize(
  ('variables', 'count'),
  [
    ({'RECJAX_MULTIHOST': '1'}, 3),
    ({'RECJAX_MULTIHOST': '1', 'RECJAX_NUM_PROCESSES': '3'}, 3),
    ({'SLURM_NTASKS': '16', 'SLURM_STEP_NODELIST': 'n[1-2]'}, 16),
    ({'OMPI_COMM_WORLD_SIZE': '4'}, 4),
    ({'TPU_WORKER_HOSTNAMES': 'a,b,c,d', 'MEGASCALE_NUM_SLICES': '2'}, 8),
  ],
)
def test_jax_detects_the_processes_of_a_known_launcher(joined, monkeypatch, variables, count):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  set_process_count(monkeypatch, count)
  distributed.initialize()
  [(args, limits)] = joined
  assert args == ()
  assert 'cluster_detection_method' not in limits
  if variables != {'RECJAX_MULTIHOST': '1'}:
    set_process_count(monkeypatch, 1)
    with pytest.raises(ValueError, match=f'must have the {count} processes.*JAX sees 1'):
      distributed.initialize()


@pytest.mark.parametrize(
  'variables',
  [
    {'SLURM_NTASKS': '16'},  # in the batch script, outside of srun
    {'SLURM_NTASKS': '1', 'SLURM_STEP_NODELIST': 'n1'},
    {'TPU_WORKER_HOSTNAMES': 'localhost'},
    {'WORLD_SIZE': '1'},
  ],
)
def test_a_launcher_of_one_process_is_ignored(joined, monkeypatch, variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  distributed.initialize()
  assert joined == []


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'RECJAX_NUM_PROCESSES': '2'}, 'missing: RECJAX_COORDINATOR, RECJAX_PROCESS_ID'),
    ({'RECJAX_NUM_PROCESSES': 'two'}, "RECJAX_NUM_PROCESSES must be a number.* got 'two'"),
    (PLACE | {'RECJAX_PROCESS_ID': '2'}, r'in \[0, 2\); got 2'),
    (
      {'WORLD_SIZE': '4'},
      r'torchrun \(WORLD_SIZE=4\) must give the address of process 0, or 4 runs',
    ),
    ({'PMI_SIZE': '2'}, r'mpiexec \(PMI_SIZE=2\).*RECJAX_COORDINATOR'),
  ],
)
def test_a_wrong_environment_is_rejected(joined, monkeypatch, values, message):
  for name, value in values.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=message):
    distributed.initialize()
  assert joined == []


def test_processes_that_did_not_join_are_rejected(joined, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  with pytest.raises(
    ValueError, match='the 4 processes that JAX sees must join; set RECJAX_MULTIHOST'
  ):
    distributed.initialize()


def test_a_failed_detection_raises_one_message(joined, monkeypatch):
  def fail(*_, **__):
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setenv('RECJAX_MULTIHOST', '1')
  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(
    ConnectionError, match=r'could not join the run: coordinator_address.*launch/'
  ):
    distributed.initialize()


def test_docs_list_every_point_and_timeout():
  page = (ROOT / 'docs/hangs.md').read_text()
  calls = re.compile(r"\.(?:exchange|barrier|from_host0|check_same)\(\s*'([^']+)'")
  sources = [path.read_text() for path in (ROOT / 'recjax').rglob('*.py')]
  points = {point for source in sources for point in calls.findall(source)}
  assert {'data prepared', 'done', 'config'} <= points
  assert [point for point in sorted(points) if f'`{point}`' not in page] == []
  for field in dataclasses.fields(Hosts):
    assert f'| `{field.name}` | {field.default:,.0f} |' in page


def run(mode):
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'launch.local', '-n', '2', '--grace=1']
  done = subprocess.run(
    [*command, '--module=tests.recjax.runtime.hosts_program', mode],
    cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout + done.stderr


def test_two_processes_exchange_texts_and_name_different_values():
  status, output = run('together')
  assert status == 0, output
  message = 'all processes must have the same config; process 1 differs from process 0 in a.b (1 instead of 0)'
  assert output.count(f'different: {message}') == 2
  assert {'end of 0', 'end of 1'} <= set(re.findall('end of .', output))


def test_the_message_names_the_missing_process_and_its_activity():
  _, output = run('missing')
  assert "missing: process 1 did not reach 'data prepared' within 2 s" in output
  assert '1 of 2 reached it' in output
  assert re.search(r'process 1 on \S+: in reading the data for \d s', output)


def test_a_failure_ends_the_other_process_with_its_message():
  status, output = run('failing')
  assert status == 1
  assert '[1] ValueError: the data are bad\n[1] details' in output
  assert re.search(r'\[0\] process 1 on \S+ ends the run: ValueError: the data are bad', output)


def test_a_missing_process_ends_the_other_with_a_message():
  status, output = run('late')
  assert status == 1
  assert re.search(r'process 0 of 2 on \S+ \(address of process 0: localhost:\d+\)', output)
  assert 'could not join the run in 3 s (--config.hosts.start_timeout): process 0 answers' in output
