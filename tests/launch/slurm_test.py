"""The Slurm launcher: the script for sbatch, and its behaviour in bash."""

import re
import sys

import pytest

from launch import slurm
from tests.folders import ROOT
from tests.launch.fakes import Fakes, shellcheck

OPTIONS = ('--nodes=2', '--gpus_per_node=4', '--time=1:00:00')
PROGRAM = ('--config=configs/demo.py', '--workdir=runs/it is', '--', '--name=for the program')


def script(*options):
  return slurm.batch_script(*slurm._parse([*OPTIONS, *options, *PROGRAM]))


def test_the_script_is_passed_to_sbatch_and_the_log_folder_created(tmp_path):
  logs = f'--logs={tmp_path / "logs"}'
  fakes = Fakes(tmp_path, 'sbatch', plan={'sbatch': [{'out': 'Submitted batch job 7'}]})
  command = [
    sys.executable,
    '-m',
    'launch.slurm',
    *OPTIONS,
    logs,
    *PROGRAM,
  ]
  done = fakes.run(*command)
  assert done.returncode == 0, done.stderr
  assert 'Submitted batch job 7' in done.stdout
  [call] = fakes.calls()
  assert call == ['sbatch', script(logs)]
  assert (tmp_path / 'logs').is_dir()  # Slurm does not start a job whose log folder is missing


def test_dry_run_prints_the_script_and_submits_nothing(tmp_path):
  fakes = Fakes(tmp_path, 'sbatch', plan={})
  done = fakes.run(sys.executable, '-m', 'launch.slurm', '--dry_run', *OPTIONS, *PROGRAM)
  assert done.returncode == 0, done.stderr
  assert fakes.calls() == []
  assert done.stdout == script()


def test_directives_set_one_task_per_gpu_and_sigterm_before_the_limit(tmp_path):
  text = script('--partition=gpu', '--account=a', '--sbatch=--mem=0', '--name=my run')
  directives = re.findall('^#SBATCH (.*)$', text, re.M)
  assert {
    '--nodes=2', '--ntasks-per-node=4', '--gpus-per-node=4', '--signal=TERM@120', '--requeue',
    '--open-mode=append', '--partition=gpu', '--account=a', '--mem=0', "--job-name='my run'",
  } <= set(directives)  # fmt: skip
  shellcheck(text, tmp_path)


@pytest.mark.parametrize(
  ('status', 'restarts', 'is_queued'),
  [(0, 0, False), (1, 0, False), (75, 0, True), (124, 3, True), (75, 5, False)],
)
def test_only_a_preempted_or_hung_job_is_requeued(tmp_path, status, restarts, is_queued):
  fakes = Fakes(tmp_path, 'srun', 'scontrol', plan={'srun': [{'status': status}], 'scontrol': [{}]})
  env = {'SLURM_JOB_ID': '42', 'SLURM_JOB_NODELIST': 'n[1-2]', 'SLURM_RESTART_COUNT': str(restarts)}
  done = fakes.run('bash', '-c', script('--restarts=5'), **env)
  assert done.returncode == status, done.stderr
  srun, *others = fakes.calls()
  program = ['-m', 'recjax.main', *(word for word in PROGRAM if word != '--'), '']
  assert srun[srun.index('-m') :] == program
  assert srun[srun.index('-m') - 1] == sys.executable
  assert others == ([['scontrol', 'requeue', '42', '']] if is_queued else [])


def test_a_job_may_run_on_fewer_nodes(tmp_path):
  text = script('--min_nodes=1')
  assert '#SBATCH --nodes=1-2\n' in text
  shellcheck(text, tmp_path)
  fakes = Fakes(tmp_path, 'srun', plan={'srun': [{}]})
  env = {'SLURM_JOB_ID': '42', 'SLURM_JOB_NODELIST': 'n1'}
  python = tmp_path / 'python'  # in place of launch.elastic
  python.write_text('#!/bin/bash\necho "$*" >asked\necho 1\n')
  python.chmod(0o755)
  text = script('--min_nodes=1', f'--python={python}').replace(f'cd {ROOT}', f'cd {tmp_path}')
  done = fakes.run('bash', '-c', text, SLURM_JOB_NUM_NODES='1', **env)
  assert done.returncode == 0, done.stderr
  assert 'the run goes on with 1 of 2 nodes' in done.stdout
  asked = (tmp_path / 'asked').read_text()
  assert asked == '-m launch.elastic --workdir=runs/it is --at_most=1 --processes=4\n'
  whole = fakes.run('bash', '-c', text, SLURM_JOB_NUM_NODES='2', **env)
  assert 'goes on' not in whole.stdout
  nodes = [
    [word for word in call if word.startswith(('--nodes', '--ntasks'))] for call in fakes.calls()
  ]
  assert nodes == [['--nodes=1', '--ntasks=4'], ['--nodes=2', '--ntasks=8']]
  small = script('--min_nodes=2', f'--python={python}').replace(f'cd {ROOT}', f'cd {tmp_path}')
  done = fakes.run('bash', '-c', small, SLURM_JOB_NUM_NODES='1', **env)
  assert done.returncode == 1 and 'less than --min_nodes=2' in done.stdout


@pytest.mark.parametrize(
  'time', ['90', '90:00', '24:00:00', '2-12', '2-12:30', '2-12:30:00', 'UNLIMITED']
)
def test_a_time_limit_is_one_of_sbatch(time):
  assert f'#SBATCH --time={time}\n' in script(f'--time={time}')


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ('--time=junk', '--time: must be a time limit such as 24:00:00, 2-12 (days and hours) or 90'),
    ('--time=-1', '--time: must be a time limit'),
    ('--time=1:2:3:4', '--time: must be a time limit'),
    ('--grace=-1', '--grace is no option here: a job has 120 seconds'),
  ],
)
def test_wrong_options_are_rejected(option, message, capsys):
  with pytest.raises(SystemExit):
    script(option)
  assert message in capsys.readouterr().err


def test_logs_may_be_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert f'#SBATCH --output={tmp_path}/logs/%x-%j.log\n' in script('--logs=~/logs')


def test_a_missing_workdir_is_rejected(capsys):
  with pytest.raises(SystemExit):
    slurm.main([*OPTIONS, '--config=configs/demo.py', '--dry_run'])
  assert '--workdir must be a folder that all nodes share' in capsys.readouterr().err


def test_the_script_changes_to_the_folder_of_the_launcher(tmp_path, monkeypatch):
  # so that relative paths mean the same; a source tree that is not installed is also found there
  monkeypatch.chdir(tmp_path)
  assert f'\ncd {tmp_path} || exit 1\n' in script()
