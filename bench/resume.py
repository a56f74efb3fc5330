"""Measures the cost of a preemption: seconds from a start or a resume to the first step, and per save.

Every start is a new process of `python -m recjax.main`. Its goodput.json gives the seconds from its start (including
imports) to the result of its first step. Then it receives SIGTERM, as in a preemption: it saves and ends with status
75. "Cold" means an empty compilation cache. Data preparation is not counted.

Command:  python -m bench.resume --config=configs/demo.py [--out=FILE] [-- FLAGS OF recjax.main …]
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from bench import circumstances
from recjax.runtime import exit_status, goodput

SHOWN = ('start_up', 'preparation', 'compile', 'input_wait', 'steps')

_CONFIG = flags.DEFINE_string('config', 'configs/demo.py', 'The config, as of recjax.main.')
_SAVE_EVERY = flags.DEFINE_integer('save_every', 25, 'Steps between two measured saves.')
_SAVES = flags.DEFINE_integer('saves', 5, 'Number of measured saves.')
_TIMEOUT = flags.DEFINE_integer('timeout', 900, 'Limit for a process in seconds.')


class Run:
  """A training in a new process, with its output in a file next to the workdir."""

  def __init__(self, workdir: pathlib.Path, cache: pathlib.Path, *arguments: str):
    self._workdir = workdir
    self._seen = len(goodput.read(workdir))
    self._log = workdir.with_suffix('.log').open('a')
    self._spawned = time.monotonic()
    self._process = subprocess.Popen(
      [*_main(), f'--workdir={workdir}', *arguments],
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)},
      stdout=self._log,
      stderr=self._log,
    )

  def record(self) -> dict[str, Any] | None:
    """Returns the record of this process in goodput.json; None before its training."""
    processes = goodput.read(self._workdir)
    if self._process.poll() is not None or time.monotonic() > self._spawned + _TIMEOUT.value:
      self._process.kill()
      sys.exit(f'the run ended or exceeded --timeout; its output: {self._log.name}')
    return processes[-1] if len(processes) > self._seen else None

  def first_step(self) -> dict[str, float]:
    """Waits for the first step; returns the seconds until then, also by phase."""
    while (record := self.record()) is None or record['first_step_after'] is None:
      time.sleep(0.05)
    phases = {name: record['seconds'][name] for name in SHOWN}
    return {'first_step_after': record['first_step_after']} | phases

  def leave(self) -> float:
    """Sends SIGTERM; returns the seconds until the process has saved and ended."""
    asked = time.monotonic()
    self._process.send_signal(signal.SIGTERM)
    status = self._process.wait(_TIMEOUT.value)
    self._log.close()
    if status != exit_status.PREEMPTED:
      sys.exit(f'the run ended with status {status}; its output: {self._log.name}')
    return time.monotonic() - asked


def _main(*arguments: str) -> list[str]:
  passed = sys.argv[sys.argv.index('--') + 1 :] if '--' in sys.argv else []
  command = [sys.executable, '-m', 'recjax.main', f'--config={_CONFIG.value}']
  return [*command, *passed, *arguments]


def _starts(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns the seconds to the first step for each kind of start."""
  kinds = (
    ('start, cold', 'first', 'cache'),
    ('start, cached', 'second', 'cache'),
    ('resume, cold', 'first', 'empty cache'),
    ('resume, cached', 'first', 'cache'),
  )
  results = {}
  for kind, workdir, cache in kinds:
    run = Run(folder / workdir, folder / cache)
    results[kind] = run.first_step()
    results[kind]['sigterm_to_exit'] = run.leave()
  return results


def _saves(folder: pathlib.Path) -> list[float]:
  """Returns the seconds that each save blocked training; for several saves between two reads, their mean."""
  every = _SAVE_EVERY.value
  never = f'--config.eval_every_steps={10**9}'
  run = Run(folder / 'saves', folder / 'cache', f'--config.checkpoint_every_steps={every}', never)
  saves, blocked, found = 0, 0.0, []
  while saves < _SAVES.value:
    time.sleep(0.1)
    record = run.record()
    # The step after a save ends only when the save no longer blocks it.
    now = (record['trainings']['.']['to'] - 1) // every if record is not None else 0
    if now > saves:
      found.append((record['seconds']['checkpoint'] - blocked) / (now - saves))
      saves, blocked = now, record['seconds']['checkpoint']
  run.leave()
  return found


def main(_) -> None:
  prepare = subprocess.run(_main('--mode=prepare'), capture_output=True, text=True, check=False)
  if prepare.returncode:
    sys.exit(prepare.stderr)
  with tempfile.TemporaryDirectory(prefix='recjax-resume-') as folder:
    starts = _starts(pathlib.Path(folder))
    saves = _saves(pathlib.Path(folder))
  names = ('first_step_after', *SHOWN, 'sigterm_to_exit')
  print(f'{"seconds":16}' + ''.join(f'{name.replace("_", " "):>18}' for name in names))
  for kind, found in starts.items():
    print(f'{kind:16}' + ''.join(f'{found[name]:18.2f}' for name in names))
  share = statistics.median(saves) / 60
  print(f'\na save blocks training for {", ".join(f"{x:.3f}" for x in saves)} s')
  print(f'with one save per minute: {share:.2%} of the time (median)')
  circumstances.write(
    circumstances.circumstances()
    | {'starts': starts, 'saves_blocked_seconds': saves, 'blocked_share_at_one_a_minute': share}
  )


if __name__ == '__main__':
  app.run(main)
