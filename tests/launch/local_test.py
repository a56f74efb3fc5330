"""Tests the local launcher with real processes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import local
from tests.folders import ROOT


def _start(*args, **kwargs):
  return subprocess.Popen(
    [sys.executable, '-m', 'launch.local', *map(str, args)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **kwargs,
  )


def _run(*args):
  with _start(*args) as process:
    out, err = process.communicate(timeout=60)
  return process.returncode, out, err


def _start_processes(folder, *modes, grace=10, restarts=0):
  options = ('--module=tests.launch.process_program', f'--grace={grace}', f'--restarts={restarts}')
  return _start('-n', len(modes), *options, folder, *modes)


def _pids(folder, count):
  """Waits until all processes have written their ids, and returns them."""
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    texts = [path.read_text() for path in sorted(folder.glob('*.pid'))]
    if len(texts) == count and all(texts):
      return [int(text) for text in texts]
    time.sleep(0.02)
  raise TimeoutError(f'{count} processes did not start')


def _is_running(pid):
  try:
    status = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return status.rsplit(')', 1)[1].split()[0] != 'Z'


def _wait_until_gone(pids):
  deadline = time.monotonic() + 10
  while any(map(_is_running, pids)) and time.monotonic() < deadline:
    time.sleep(0.02)
  return not any(map(_is_running, pids))


def test_two_processes_sum_over_their_devices():
  module = '--module=tests.launch.allreduce_program'
  status, out, err = _run('-n', 2, '--devices_per_process=3', module, '--seed=1', '--', '-n', '9')
  assert status == 0, out + err
  # Gloo writes to the same stream without line ends, so our text may not start a line.
  assert out.count("arguments ['--seed=1', '-n', '9'] devices 6 sum 33\n") == 2
  assert out.count('host 0 here\n') == 1
  assert {line[:4] for line in out.splitlines()} == {'[0] ', '[1] '}


def test_a_failure_ends_the_other_processes_and_is_the_exit_status(tmp_path):
  with _start_processes(tmp_path, 'wait', 'fail') as launcher:
    out, err = launcher.communicate(timeout=60)
  assert launcher.returncode == 7
  assert '[1] failing' in out
  assert 'process 1 ended with status 7' in err
  assert _wait_until_gone(_pids(tmp_path, 2))


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path):
  with _start_processes(tmp_path, 'fail', 'stubborn', grace=0.3) as launcher:
    launcher.communicate(timeout=30)
  assert launcher.returncode == 7
  assert _wait_until_gone(_pids(tmp_path, 2))


@pytest.mark.parametrize(('mode', 'status'), [('polite', 0), ('wait', 128 + signal.SIGTERM)])
def test_sigterm_is_forwarded_to_all_processes(tmp_path, mode, status):
  with _start_processes(tmp_path, mode, mode) as launcher:
    pids = _pids(tmp_path, 2)
    launcher.terminate()
    launcher.communicate(timeout=30)
  assert launcher.returncode == status
  assert _wait_until_gone(pids)


@pytest.mark.parametrize(('restarts', 'status', 'starts'), [(0, 75, 1), (1, 75, 2), (5, 0, 3)])
def test_a_preempted_run_is_restarted(tmp_path, restarts, status, starts):
  with _start_processes(tmp_path, 'preempted', restarts=restarts) as launcher:
    _, err = launcher.communicate(timeout=60)
  assert launcher.returncode == status
  coordinators = (tmp_path / 'starts').read_text().splitlines()
  # Every start needs a new port, because that of the previous run may still be in use.
  assert len(coordinators) == len(set(coordinators)) == starts
  assert err.count('launch.local: restart') == starts - 1


@pytest.mark.parametrize(
  ('least', 'answer', 'found', 'message'),
  [
    (1, (2, ''), 2, '1 of 3 processes were killed, the run goes on with 2'),
    (2, (1, ''), None, 'were killed, and 1 could go on, less than --min_processes=2'),
    (1, (None, 'the batch is 7'), None, '1 of 3 processes were killed, and the batch is 7'),
  ],
)
def test_the_number_of_processes_after_a_loss(monkeypatch, capsys, least, answer, found, message):
  asked = []
  monkeypatch.setattr(
    local, 'usable_hosts', lambda *args, **how: asked.append((args, how)) or answer
  )
  options, program = local._parse(['-n', '3', f'--min_processes={least}', '--workdir=w'])
  assert local._fewer(options, program, count=3, killed=1) == found
  assert asked == [((['--workdir=w'], 2), {'devices': 1})]
  assert message in capsys.readouterr().err


@pytest.mark.soak
def test_a_run_goes_on_without_killed_processes(tmp_path):
  options = ('-n', 3, '--module=tests.launch.process_program', '--min_processes=1', '--')
  modes = ('goes_on', 'goes_on', 'killed')
  status, out, err = _run(*options, f'--workdir={tmp_path}/w', tmp_path, *modes)
  assert status == 0, out + err
  assert '1 of 3 processes were killed, the run goes on with 2' in err


def test_a_failed_run_and_a_terminated_launcher_are_not_restarted(tmp_path):
  with _start_processes(tmp_path, 'fail', restarts=3) as launcher:
    _, err = launcher.communicate(timeout=60)
  assert (launcher.returncode, 'restart' in err) == (7, False)
  (tmp_path / 'told').mkdir()
  with _start_processes(tmp_path / 'told', 'preempted_by_signal', restarts=3) as launcher:
    _pids(tmp_path / 'told', 1)
    launcher.terminate()
    _, err = launcher.communicate(timeout=60)
  assert (launcher.returncode, 'restart' in err) == (75, False)


@pytest.mark.skipif(sys.platform != 'linux', reason='uses the parent-death signal of Linux')
def test_no_process_outlives_a_killed_launcher(tmp_path):
  with _start_processes(tmp_path, 'stubborn', 'stubborn') as launcher:
    pids = _pids(tmp_path, 2)
    launcher.kill()
    launcher.communicate(timeout=30)
  assert _wait_until_gone(pids)


def test_dry_run_prints_the_commands(monkeypatch, capsys):
  monkeypatch.setenv('XLA_FLAGS', '--a=1 --xla_force_host_platform_device_count=8')
  args = ['-n', '2', '--dry_run', '--devices_per_process=4', '--config=configs/demo.py']
  assert local.main(args) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2
  assert 'RECJAX_NUM_PROCESSES=2 RECJAX_PROCESS_ID=1 JAX_PLATFORMS=cpu' in lines[1]
  assert "'XLA_FLAGS=--a=1 --xla_force_host_platform_device_count=4'" in lines[1]
  assert lines[1].endswith('-m recjax.main --config=configs/demo.py')
  assert 'RECJAX_PROCESS_ID' not in os.environ


@pytest.mark.parametrize(
  'args',
  [
    ['-n', '0'],
    ['--dry_run'],
    ['-n', 'x'],
    ['-n', '2', '--min_processes=1'],
    ['-n', '2', '--min_processes=3', '--workdir=W'],
  ],
)
def test_an_invalid_number_of_processes_is_rejected(args, capsys):
  with pytest.raises(SystemExit):
    local.main(args)
  assert '-n' in capsys.readouterr().err


@pytest.mark.parametrize('grace', ['-1', 'nan', 'inf', 'soon'])
def test_an_invalid_grace_is_rejected(grace, capsys):
  with pytest.raises(SystemExit):
    local.main(['-n', '1', f'--grace={grace}', '--dry_run'])
  assert '--grace: must be a number of seconds, 0 or more' in capsys.readouterr().err
