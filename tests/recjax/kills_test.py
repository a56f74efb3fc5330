"""Real processes that are killed, preempted and resumed, on the same devices and on others."""

import functools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from recjax.runtime import exit_status
from recjax.workdir import checksums
from recjax.workdir.metrics_file import read_metrics
from tests import saved
from tests.folders import ROOT

PROGRAM = 'tests.recjax.train_program'
QUICK_TO_COMPILE = (
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
)


class Run:
  """A run of train_program in the background; its output goes to a file."""

  def __init__(self, workdir, tiny_world, *args, processes=1, devices=1, options=()):
    flags = [flag for flag in os.environ.get('XLA_FLAGS', '').split() if 'device_count' not in flag]
    flags += [f'--xla_force_host_platform_device_count={devices}', *QUICK_TO_COMPILE]
    module = ['-m', PROGRAM]
    if processes > 1:
      module = [
        '-m',
        'launch.local',
        '-n',
        str(processes),
        '--grace=1',
        *options,
        f'--module={PROGRAM}',
        '--',
      ]
    prepared = tiny_world[0].data.prepared_dir
    self.log = workdir.with_suffix('.log')
    with self.log.open('w') as log:
      self.process = subprocess.Popen(
        [sys.executable, *module, str(workdir), prepared, *map(str, args)],
        cwd=ROOT, env=os.environ | {'XLA_FLAGS': ' '.join(flags)}, stdout=log, stderr=log,
      )  # fmt: skip

  def wait_for(self, condition, pause=0.001):
    deadline = time.monotonic() + 300
    while not condition():
      assert self.process.poll() is None, self.log.read_text()[-3000:]
      assert time.monotonic() < deadline, self.log.read_text()[-3000:]
      time.sleep(pause)

  def end(self):
    """Returns the exit status."""
    return self.process.wait(timeout=300)

  def kill(self):
    self.process.kill()
    assert self.end() == -signal.SIGKILL

  def check(self):
    assert self.end() == 0, self.log.read_text()[-3000:]

  def children(self):
    """Returns the ids of the processes that a launcher started."""
    return sorted(
      int(pid)
      for task in pathlib.Path(f'/proc/{self.process.pid}/task').iterdir()
      for pid in (task / 'children').read_text().split()
    )

  def has_trained(self):
    """Returns whether the log has a step."""
    return re.search(r'step \d+/', self.log.read_text()) is not None

  def continued_from(self):
    """Returns the step that the last stage in the log resumed from; 0 if it did not resume."""
    found = re.findall(r'continuing from step (\d+)', self.log.read_text())
    return int(found[-1]) if found else 0


def last_step(workdir):
  """Returns the last step in metrics.jsonl, whose last line may be incomplete."""
  path = workdir / 'metrics.jsonl'
  found = re.findall(r'^\{"step": (\d+),', path.read_text(), re.M) if path.exists() else []
  return int(found[-1]) if found else 0


def is_saving(workdir):
  folder = workdir / 'checkpoints'
  return folder.exists() and any(
    not (path / checksums.FILE).exists() for path in folder.iterdir() if path.is_dir()
  )


def column(workdir, name):
  return [row[name] for row in read_metrics(workdir)]


def kill_at(run, stage, step, generator):
  """Kills a run shortly after it wrote a step of a stage."""
  run.wait_for(lambda: last_step(stage) >= step)
  time.sleep(generator.uniform(0, 0.03))
  run.kill()


def kill_when(run, condition):
  """Kills a run while a condition holds; the run is stopped first, so that the condition stays true."""
  while True:
    run.wait_for(condition)
    run.process.send_signal(signal.SIGSTOP)
    if condition():
      run.kill()
      return
    run.process.send_signal(signal.SIGCONT)


def kill(run, workdir, stage, moment, steps, generator):
  """Kills a run of two stages during a save, between the stages, by a signal, or after a step."""
  first = workdir / 'stages' / 'first'
  if moment == 'save':
    run.wait_for(run.has_trained)  # an unfinished save of an earlier process does not count
    kill_when(run, lambda: is_saving(first) and saved.steps(first))
    assert is_saving(first)
  elif moment == 'border':
    kill_when(run, lambda: steps in saved.steps(first) and not last_step(workdir))
    assert last_step(first) == steps
  elif moment in ('sigterm', 'sigint'):
    seen = last_step(workdir)
    run.wait_for(lambda: last_step(workdir) not in (0, seen))
    run.process.send_signal(signal.SIGTERM if moment == 'sigterm' else signal.SIGINT)
    stopped = exit_status.PREEMPTED if moment == 'sigterm' else exit_status.INTERRUPTED
    assert run.end() == stopped
    assert saved.steps(workdir)[-1] == last_step(workdir)  # no step is lost
  else:
    kill_at(run, (first, workdir)[stage], moment, generator)


def check_kills(tiny_world, folder, kills, steps):
  """Kills a run `kills` times; it resumes at the last checkpoint and ends like an uninterrupted run."""
  straight, killed = folder / 'straight', folder / 'killed'
  Run(straight, tiny_world, steps, 'staged').check()
  generator = random.Random(0)
  # In the order of the run; the last steps are left out, because the run could end before the kill.
  moments = [(generator.randrange(2), generator.randrange(1, steps - 20)) for _ in range(kills - 4)]
  moments = [*sorted(moments), (0, 'save'), (0, 'border'), (1, 'sigterm'), (1, 'sigint')]
  before = None
  for stage, moment in [*sorted(moments, key=lambda moment: moment[0]), (1, None)]:
    run = Run(killed, tiny_world, steps, 'staged')
    if moment is None:
      run.check()
    else:
      kill(run, killed, stage, moment, steps, generator)
    if before is not None and not isinstance(moment, int):  # an early kill may precede the restore
      assert run.continued_from() == before
    before = max(saved.steps(killed) or saved.steps(killed / 'stages' / 'first'), default=0)
  for stage in ('stages/first', ''):
    assert column(killed / stage, 'step') == list(range(1, steps + 1))
    for name in ('loss', 'examples_seen'):
      assert column(killed / stage, name) == column(straight / stage, name)
    assert saved.steps(killed / stage)[-1] == steps
    saved.assert_params(np.testing.assert_array_equal, killed / stage, straight / stage)


def test_a_run_after_four_kills_equals_an_uninterrupted_one(tiny_world, tmp_path):
  check_kills(tiny_world, tmp_path, kills=4, steps=40)


@pytest.mark.soak
def test_a_run_after_twenty_kills_equals_an_uninterrupted_one(tiny_world, tmp_path):
  check_kills(tiny_world, tmp_path, kills=20, steps=300)


@pytest.mark.soak
def test_a_run_is_killed_and_moves_between_topologies(tiny_world, tmp_path):
  steps, two = 48, {'processes': 2, 'devices': 4}
  straight, moved = tmp_path / 'straight', tmp_path / 'moved'
  Run(straight, tiny_world, steps, **two).check()

  # SIGINT, then SIGTERM to one of two processes: both save the same step.
  preempted = 0
  for number, status in (
    (signal.SIGINT, exit_status.INTERRUPTED),
    (signal.SIGTERM, exit_status.PREEMPTED),
  ):
    run = Run(moved, tiny_world, steps, 'slow', **two)
    run.wait_for(lambda: last_step(moved) >= preempted + 2)  # noqa: B023
    os.kill(run.children()[1], number)
    assert run.end() == status
    assert preempted < last_step(moved) < steps
    preempted = last_step(moved)
    assert saved.steps(moved)[-1] == preempted

  # SIGKILL to one of them: the run ends, and resumes at the last checkpoint.
  run = Run(moved, tiny_world, steps, 'slow', **two)
  run.wait_for(lambda: saved.steps(moved)[-1] > preempted)
  os.kill(run.children()[1], signal.SIGKILL)
  assert run.end() == 128 + signal.SIGKILL
  assert run.continued_from() == preempted
  *_, older, newest = saved.steps(moved)
  assert newest < steps

  # It resumes in one process with eight devices, on one device, and on the same devices. For the latter, a bit
  # flips in a file of process 1, so that the checkpoint before is used.
  for name in ('eight', 'one'):
    shutil.copytree(moved, tmp_path / name)
  damaged = max((moved / f'checkpoints/{newest}/train/ocdbt.process_1/d').iterdir())
  content = bytearray(damaged.read_bytes())
  content[len(content) // 2] ^= 1
  damaged.write_bytes(content)
  runs = {
    'moved': lambda workdir: Run(workdir, tiny_world, steps, **two),
    'eight': lambda workdir: Run(workdir, tiny_world, steps, 'sharded', devices=8),
    'one': lambda workdir: Run(workdir, tiny_world, steps),
  }
  for name, start in runs.items():
    run = start(tmp_path / name)
    run.check()
    assert run.continued_from() == (older if name == 'moved' else newest)
    for exact in ('step', 'examples_seen', 'tokens'):
      assert column(tmp_path / name, exact) == column(straight, exact)
  log = (tmp_path / 'moved.log').read_text()
  assert f'checkpoint {newest} in {moved}/checkpoints is damaged and not used' in log
  assert f'train/ocdbt.process_1/d/{damaged.name} does not have the content that was written' in log
  assert column(moved, 'loss') == column(straight, 'loss')
  saved.assert_params(np.testing.assert_array_equal, moved, straight)
  for name in ('eight', 'one'):
    np.testing.assert_allclose(column(tmp_path / name, 'loss'), column(straight, 'loss'), rtol=2e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    saved.assert_params(close, tmp_path / name, straight)


@pytest.mark.soak
def test_a_stage_of_groups_of_which_a_process_is_killed_ends_like_another(tiny_world, tmp_path):
  steps, two = 12, {'processes': 2, 'devices': 1}
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  Run(straight, tiny_world, steps, 'grpo', **two).check()
  for number, step in enumerate(
    (5, 9)
  ):  # the second process, then the first, whose files others read
    run = Run(killed, tiny_world, steps, 'grpo', **two)
    run.wait_for(lambda: last_step(killed) >= step)  # noqa: B023
    os.kill(run.children()[1 - number], signal.SIGKILL)
    assert run.end() == 128 + signal.SIGKILL
    assert step - 3 <= saved.steps(killed)[-1] < steps
  shutil.rmtree(killed / 'stages')  # the reference is in the folder of the stage itself
  run = Run(killed, tiny_world, steps, 'grpo', **two)
  run.check()
  assert run.continued_from() >= 6
  assert column(killed, 'kl')[-1] > 0
  for name in ('step', 'loss', 'reward', 'kl', 'unique', 'examples_seen', 'grad_norm'):
    assert column(killed, name) == column(straight, name)
  saved.assert_params(np.testing.assert_array_equal, killed, straight)


@pytest.mark.soak
def test_a_lost_host_costs_the_steps_since_the_last_copy_in_memory(tiny_world, tmp_path):
  steps, two = 60, {'processes': 2, 'devices': 2}
  straight = tmp_path / 'straight'
  Run(straight, tiny_world, steps, 'copied', tmp_path / 'no copy', **two).check()
  assert not list((tmp_path / 'no copy').glob('*'))  # removed at the end

  def lose(workdir, memory, **options):
    """Kills a process after its seventh step, with the memory of its host."""
    run = Run(
      workdir, tiny_world, steps, 'copied', memory, f'--workdir={workdir}', **two, **options
    )
    run.wait_for(lambda: list(memory.glob('*/1/6/checksums.json')) and last_step(workdir) >= 6)
    time.sleep(0.3)
    killed = time.monotonic()
    os.kill(run.children()[1], signal.SIGKILL)
    for folder in memory.glob('*/1'):
      shutil.rmtree(folder)
    return run, killed

  # The host comes back with an empty memory: the same command goes on, bit for bit.
  back, memory = tmp_path / 'back', tmp_path / 'memory of back'
  run, _ = lose(back, memory)
  assert run.end() == 128 + signal.SIGKILL
  assert not saved.steps(back)
  run = Run(back, tiny_world, steps, 'copied', memory, **two)
  run.check()
  assert run.continued_from() in (6, 9)
  log = run.log.read_text()
  assert 'is restored from the memory of the hosts' in log
  assert column(back, 'step') == list(range(1, steps + 1))
  assert column(back, 'loss') == column(straight, 'loss')
  saved.assert_params(np.testing.assert_array_equal, back, straight)

  # It does not come back: the launcher goes on with the other host, and the examples of a step stay the same.
  left, memory = tmp_path / 'left', tmp_path / 'memory of left'
  run, killed = lose(left, memory, options=('--min_processes=1',))
  run.wait_for(lambda: run.continued_from() > 0)
  restart = time.monotonic() - killed
  run.check()
  print(f'seconds from the kill to the restored state: {restart:.1f}')
  assert run.continued_from() in (6, 9)
  assert '1 of 2 processes were killed, the run goes on with 1' in run.log.read_text()
  for exact in ('step', 'examples_seen', 'tokens'):
    assert column(left, exact) == column(straight, exact)
  np.testing.assert_allclose(column(left, 'loss'), column(straight, 'loss'), rtol=2e-6)
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
  saved.assert_params(close, left, straight)
