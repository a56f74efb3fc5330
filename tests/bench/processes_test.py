"""Trainings as processes: those that were killed are started again, and none outlives its parent."""

import dataclasses
import pathlib
import subprocess
import sys
import time

import pytest

from bench import processes
from tests.folders import ROOT

# Waits to be killed at its first starts, and ends well at a later one.
PATIENT = """
import pathlib, sys, time
folder, starts = pathlib.Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
(folder / str(len(list(folder.iterdir())))).touch()
print(len(list(folder.iterdir())), flush=True)
if len(list(folder.iterdir())) <= starts: time.sleep(60)
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Training(processes.Job):
  name: str
  workdir: pathlib.Path
  command: tuple[str, ...]


def training(folder, name, program, *arguments):
  command = ('-S', '-c', program, str(folder / name), *map(str, arguments))
  return Training(name, folder / name, command)


def starts(job, count):
  """Waits until a job was started so often."""
  deadline = time.monotonic() + 30
  while not job.log.exists() or len(job.log.read_text().split()) < count:
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_a_killed_process_is_started_again_at_most_twice(tmp_path, capsys):
  job, ended, killed = training(tmp_path, 'a', PATIENT, 9), [], 0
  with processes.Pool(1) as pool:
    pool.start(job)
    while not ended:
      starts(job, killed + 1)
      pool._running[job].process.kill()
      killed += 1
      ended = pool.ended()
  assert (killed, ended[0].failure) == (1 + processes.RESTARTS, 'was killed')
  out = capsys.readouterr().out
  assert out.count('a: was killed (SIGKILL), is started again') == processes.RESTARTS


PARENT = """
import sys
from tests.bench.processes_test import PATIENT, processes, training
import pathlib
with processes.Pool(1) as pool:
  pool.start(training(pathlib.Path(sys.argv[1]), 'a', PATIENT, 9))
  while True: pool.ended()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl is of Linux')
def test_a_process_ends_with_its_killed_parent(tmp_path):
  parent = subprocess.Popen([sys.executable, '-c', PARENT, str(tmp_path)], cwd=ROOT)
  starts(training(tmp_path, 'a', PATIENT), 1)
  [child] = pathlib.Path(f'/proc/{parent.pid}/task/{parent.pid}/children').read_text().split()
  parent.kill()
  parent.wait()
  deadline = time.monotonic() + 30
  while pathlib.Path(f'/proc/{child}').exists() and time.monotonic() < deadline:
    if pathlib.Path(f'/proc/{child}/stat').read_text().split()[2] == 'Z':
      break
    time.sleep(0.02)
  else:
    assert not pathlib.Path(f'/proc/{child}').exists()
