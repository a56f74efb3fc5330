"""Tests the TPU launcher with a fake gcloud that records its calls."""

import json
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
import tomllib

import pytest

from launch import tpu
from tests.launch.fakes import ROOT, Fakes, shellcheck

PROGRAM = (
  '--config=configs/demo.py',
  '--workdir=gs://b/w',
  '--config.data.prepared_dir=gs://b/data',
)
OPTIONS = ('--name=n', '--zone=z', '--accelerator_type=v5litepod-16', '--poll=1')
NODE = {'out': json.dumps({'networkEndpoints': [{}] * 4})}
ABSENT = {'status': 1, 'err': 'ERROR: NOT_FOUND: there is no n'}


def queue(*states):
  """Returns the plan for the states that gcloud reports in turn; the last one is repeated."""
  answers = [ABSENT if state is None else {'out': state} for state in states]
  return {'queued-resources describe': answers}


CREATED = {'then': queue('ACTIVE')}


def plan(ssh, create=(CREATED,), state=None):
  return {
    **queue(state),
    'queued-resources create': list(create),
    'queued-resources delete': [{}],
    'tpu-vm describe': [NODE],
    'tpu-vm scp': [{}],
    'tpu-vm ssh': [{'status': answer} if isinstance(answer, int) else answer for answer in ssh],
  }


def launch(tmp_path, *options, **kwargs):
  fakes = Fakes(tmp_path, 'gcloud', plan=plan(**kwargs))
  command = [sys.executable, '-m', 'launch.tpu', *OPTIONS, *options, *PROGRAM]
  return fakes.run(*command), [call for call in fakes.calls() if call[4] != 'describe']


def verbs(calls):
  return [call[4] for call in calls]


def test_the_launcher_creates_installs_runs_and_deletes(tmp_path):
  created = {'then': queue('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')}
  done, calls = launch(tmp_path, '--spot', '--project=p', create=[created], ssh=[0])
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['create', 'scp', 'ssh', 'ssh', 'delete']
  assert {'--spot', '--zone=z', '--project=p', '--node-id=n'} <= set(calls[0])
  assert {'--accelerator-type=v5litepod-16', '--runtime-version=v2-alpha-tpuv5-lite'} <= set(
    calls[0]
  )
  assert all('--worker=all' in call for call in calls[1:4])
  script = next(word for word in calls[3] if word.startswith('--command='))
  assert 'RECJAX_MULTIHOST=1 RECJAX_NUM_PROCESSES=4 ' in script
  assert script.rstrip().endswith(f'-m recjax.main {shlex.join(PROGRAM)}')
  assert '--force' in calls[4]
  assert 'the queued resource is PROVISIONING' in done.stderr


def test_several_slices_are_nodes_of_one_queued_resource(tmp_path):
  remote = {'queued-resources scp': [{}], 'queued-resources ssh': [{}]}
  fakes = Fakes(tmp_path, 'gcloud', plan=plan(ssh=[0]) | remote)
  fakes.run(sys.executable, '-m', 'launch.tpu', *OPTIONS, '--slices=2', *PROGRAM)
  calls = [
    call for call in fakes.calls() if 'queued-resources' not in call or call[4] != 'describe'
  ]
  assert verbs(calls) == ['create', 'scp', 'ssh', 'describe', 'ssh', 'delete']
  assert {'--node-count=2', '--node-prefix=n'} <= set(calls[0]) and '--node-id=n' not in calls[0]
  for call in (calls[1], calls[2], calls[4]):
    assert call[:4] == ['gcloud', 'compute', 'tpus', 'queued-resources']
    assert {'--worker=all', '--node=all'} <= set(call)
  assert calls[3][3:6] == ['tpu-vm', 'describe', 'n-0']
  assert 'RECJAX_NUM_PROCESSES=8 ' in ' '.join(calls[4])  # four workers of each slice


def test_a_preempted_slice_is_created_again_and_runs_the_same_command(tmp_path):
  taken = {'status': 134, 'then': queue('SUSPENDED')}
  done, calls = launch(tmp_path, ssh=[0, taken, 0, 0])
  assert done.returncode == 0, done.stderr
  once = ['create', 'scp', 'ssh', 'ssh', 'delete']
  assert verbs(calls) == once + once
  assert calls[3] == calls[8]
  assert calls[0] == calls[5]
  assert 'the slice was preempted; restart 1 of 20' in done.stderr


def test_a_preempted_or_hung_program_is_restarted_on_the_same_slice(tmp_path):
  done, calls = launch(tmp_path, ssh=[0, 75, 124, 0])
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['create', 'scp', 'ssh', 'ssh', 'ssh', 'ssh', 'delete']


def test_the_status_of_a_failed_program_is_returned_without_restart(tmp_path):
  done, calls = launch(tmp_path, '--keep', ssh=[0, 3])
  assert done.returncode == 3
  assert verbs(calls) == ['create', 'scp', 'ssh', 'ssh']
  assert 'the slice is kept and costs money until: gcloud' in done.stderr


def test_the_number_of_restarts_is_limited(tmp_path):
  done, calls = launch(tmp_path, '--restarts=1', create=[{'then': queue('FAILED')}], ssh=[0])
  assert done.returncode == 75
  assert verbs(calls) == ['create', 'delete'] * 2
  assert done.stderr.count('the slice was preempted') == 2
  assert 'giving up' in done.stderr


def test_an_existing_slice_is_not_touched(tmp_path):
  done, calls = launch(tmp_path, state='ACTIVE', ssh=[0])
  assert done.returncode == 1
  assert calls == []
  assert 'n already exists (ACTIVE); set another --name' in done.stderr


def test_a_rejected_request_is_not_repeated(tmp_path):
  refused = {'status': 1, 'err': 'quota'}
  done, calls = launch(tmp_path, ssh=[0], create=[refused])
  assert done.returncode == 1
  assert verbs(calls) == ['create']
  assert 'quota' in done.stderr


def test_dry_run_prints_commands_whose_scripts_pass_shellcheck(tmp_path):
  fakes = Fakes(tmp_path, 'gcloud', plan={})
  done = fakes.run(sys.executable, '-m', 'launch.tpu', *OPTIONS, '--dry_run', *PROGRAM)
  assert done.returncode == 0, done.stderr
  assert fakes.calls() == []
  subprocess.run(['bash', '-n'], input=done.stdout, text=True, check=True)
  scripts = [word[len('--command=') :] for word in shlex.split(done.stdout, comments=True) if word.startswith('--command=')]  # fmt: skip
  assert len(scripts) == 2
  for script in scripts:
    shellcheck(script, tmp_path)


def test_the_run_script_kills_the_previous_program_and_sets_the_number_of_processes(tmp_path):
  python = tmp_path / 'recjax-run/.venv/bin/python'
  python.parent.mkdir(parents=True)
  python.write_text(
    '#!/bin/bash\necho "$RECJAX_MULTIHOST $RECJAX_NUM_PROCESSES $*" >out\nexec sleep 60\n'
  )
  python.chmod(0o755)
  script = tpu._run_script(['--a=b c', '$HOME'], '4')
  first = subprocess.Popen(['bash', '-c', script], cwd=tmp_path)
  out = tmp_path / 'recjax-run/out'
  wait_for(lambda: out.exists() and out.read_text())
  assert out.read_text() == '1 4 -m recjax.main --a=b c $HOME\n'
  second = subprocess.Popen(['bash', '-c', script], cwd=tmp_path)
  assert first.wait(30) == -signal.SIGKILL
  second.kill()
  second.wait()


def wait_for(condition):
  deadline = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_the_archive_has_all_files_of_the_program(tmp_path):
  names = []

  class Copy:
    returncode = 1

    def __init__(self, command, cwd=None, **_):
      if 'scp' in command:
        with tarfile.open(f'{cwd}/{command[command.index("scp") + 1]}') as tar:
          names.extend(tar.getnames())

  options, _ = tpu._parse([*OPTIONS, *PROGRAM])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(subprocess, 'run', Copy)
    patch.setattr(tpu._Slice, 'is_preempted', lambda self: True)
    assert not tpu._Slice(options).install()
  assert {
    'recjax/main.py',
    'recjax/report/templates/report.html.j2',
    'configs/demo.py',
    'requirements-tpu.txt',
  } <= set(names)
  assert not [name for name in names if '__pycache__' in name or name.startswith(('tests', '.'))]
  project = tomllib.loads(
    (ROOT / 'pyproject.toml').read_text()
  )  # what `pip install '.[tpu]'` reads
  files = project['tool']['setuptools']['dynamic']['optional-dependencies']['tpu']['file']
  assert {*files, 'requirements.txt', project['project']['readme'], 'pyproject.toml'} <= set(names)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((*OPTIONS, '--workdir=w'), "--workdir must be a gs:// path.*got 'w'"),
    ((*OPTIONS, '--workdir', 'gs://b/w'), '--config.data.prepared_dir must be a gs:// path'),
    (('--name=n', '--zone=z', '--accelerator_type=v9-8', *PROGRAM), '--runtime_version must be given for v9-8'),
    (('--name=n', *PROGRAM), '--zone'),
  ],
)  # fmt: skip
def test_invalid_options_are_rejected(arguments, message, capsys):
  with pytest.raises(SystemExit):
    tpu.main([*arguments, '--dry_run'])
  assert re.search(message, capsys.readouterr().err)
