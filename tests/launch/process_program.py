"""A process without JAX for local_test.py: fails, waits for a signal, or ignores signals."""

import os
import pathlib
import signal
import sys
import time

folder, *modes = sys.argv[1:]
mode = modes[int(os.environ['RECJAX_PROCESS_ID'])]
if mode == 'stubborn':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif mode == 'polite':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(folder, f'{os.environ["RECJAX_PROCESS_ID"]}.pid').write_text(str(os.getpid()))
if mode == 'fail':
  while len(list(pathlib.Path(folder).glob('*.pid'))) < len(modes):
    time.sleep(0.01)
  print('failing')
  sys.exit(7)
time.sleep(60)
