"""A process without JAX for local_test.py; its mode: fail, wait, ignore SIGTERM, be killed, or end as preempted."""

import os
import pathlib
import signal
import sys
import time

folder, *modes = [argument for argument in sys.argv[1:] if not argument.startswith('--workdir')]
mode = modes[int(os.environ['RECJAX_PROCESS_ID'])]
if mode == 'stubborn':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif mode == 'preempted_by_signal':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
elif mode == 'polite':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(folder, f'{os.environ["RECJAX_PROCESS_ID"]}.pid').write_text(str(os.getpid()))
if mode == 'fail':
  while len(list(pathlib.Path(folder).glob('*.pid'))) < len(modes):
    time.sleep(0.01)
  print('failing')
  sys.exit(7)
if mode == 'killed':
  os.kill(os.getpid(), signal.SIGKILL)
if mode == 'goes_on' and int(os.environ['RECJAX_NUM_PROCESSES']) <= 2:
  sys.exit(0)
if mode == 'preempted':  # ends with status 75 twice, then with 0
  with pathlib.Path(folder, 'starts').open('a') as file:
    file.write(f'{os.environ["RECJAX_COORDINATOR"]}\n')
  starts = pathlib.Path(folder, 'starts').read_text().splitlines()
  sys.exit(0 if len(starts) == 3 else 75)
time.sleep(60)
