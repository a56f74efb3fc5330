"""A training of two real processes: if one is stopped, the other ends with a message."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from recjax.runtime import exit_status
from recjax.workdir.metrics_file import read_metrics
from tests.folders import ROOT

SECONDS = 5


def train(config, workdir, *flags):
  """Starts two processes and waits for some steps; returns the launcher and the ids of the processes."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {'JAX_PLATFORMS': 'cpu'}
  launcher = subprocess.Popen(
    [
      *(sys.executable, '-m', 'launch.local', '-n', '2', '--grace=1', '--config=configs/demo.py:tiny'),
      *(f'--config.data.prepared_dir={config.data.prepared_dir}', f'--workdir={workdir}'),
      *('--config.num_train_steps=100000', '--config.eval_every_steps=100000'),
      *('--config.checkpoint_every_steps=100000', *flags),
    ],
    cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip
  deadline = time.monotonic() + 120
  while not (workdir / 'metrics.jsonl').exists() or len(read_metrics(workdir)) < 5:
    assert launcher.poll() is None, launcher.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.1)
  children = pathlib.Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text()
  return launcher, [int(pid) for pid in children.split()]


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('stopped', [1, pytest.param(0, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
  'timeout', ['step_timeout', pytest.param('heartbeat_timeout', marks=pytest.mark.soak)]
)
def test_a_stopped_process_ends_the_run_with_a_message(tiny_world, tmp_path, stopped, timeout):
  launcher, pids = train(tiny_world[0], tmp_path / 'run', f'--config.hosts.{timeout}={SECONDS}')
  os.kill(pids[stopped], signal.SIGSTOP)
  start = time.monotonic()
  output, _ = launcher.communicate(timeout=100)
  assert launcher.returncode == exit_status.HUNG, output
  assert time.monotonic() - start < SECONDS + 40  # a busy machine is slow
  mark = rf'^\[{1 - stopped}\] '
  [why] = re.findall(f'{mark}the run hangs: (.*)$', output, re.M)
  if timeout == 'heartbeat_timeout':
    assert why.startswith(
      'process 0, which hosts' if stopped == 0 else 'process 1 sent no heartbeat'
    )
  elif stopped == 1:
    assert re.match(rf'step \d+ has not ended after {SECONDS}', why)
    assert re.search(
      rf'{mark}  process 1 on \S+: no heartbeat for \d+ s, before that in step \d+', output, re.M
    )
  # The stack of the main thread shows where it waits.
  assert re.search(rf'{mark}  File ".*recjax/train.py", line \d+ in train$', output, re.M)
  # Process 0 alone writes the log.
  said_by_1 = re.findall(r'^\[1\] \d\d:\d\d:\d\d (.*)$', output, re.M)
  assert [line.split(' at ')[0] for line in said_by_1] == ['joining the run']
