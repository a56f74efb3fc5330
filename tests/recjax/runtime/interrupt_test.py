"""Ctrl-C, as a terminal sends it: SIGINT to all processes of a group."""

import os
import signal
import subprocess
import sys

import pytest

from recjax.runtime import exit_status
from tests.folders import ROOT

# The main thread is in a library in C, which runs no Python signal handler.
PROGRAM = """
import contextlib, hashlib, sys
from recjax.runtime import files, interrupt, preemption
preemption.handle_sigint()
interrupt.set_line('interrupted: nothing was written')
finishing = interrupt.finishing('saving') if sys.argv[1] else contextlib.nullcontext()
with finishing, files.replacing(sys.argv[2]) as f:
  print('ready', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
ENDED = 'interrupted twice: ended at once; the same command resumes from what is saved\n'


@pytest.mark.parametrize('finishing', ['', 'saving'])
def test_ctrl_c_ends_a_process_in_compiled_code(tmp_path, finishing):
  with subprocess.Popen(
    [sys.executable, '-c', PROGRAM, finishing, str(tmp_path / 'out')],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'ready\n'
    assert len(list(tmp_path.iterdir())) == 1
    os.killpg(process.pid, signal.SIGINT)
    line = process.stderr.readline()
    if finishing:
      assert line == 'interrupted: saving; press Ctrl-C again to end at once\n'
      assert process.poll() is None
      os.killpg(process.pid, signal.SIGINT)
    else:
      assert line == 'interrupted: nothing was written\n'
    _, rest = process.communicate(timeout=60)
  assert rest == (ENDED if finishing else '')
  assert process.returncode == exit_status.INTERRUPTED == 130
  assert exit_status.INTERRUPTED not in exit_status.RESTART_ON
  assert not any(tmp_path.iterdir())
