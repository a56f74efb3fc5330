"""Runs programs of recjax for the shell of `tests/docs_commands_test.py`, one forked process for each.

Importing the libraries takes longer than a tiny run, so the server imports them once. It starts no backend of JAX,
because a forked process could not use it. Flags may be defined once, so programs are imported by their own process.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
import warnings

from absl import app, flags

from recjax import config as config_lib
from recjax.schema import flag
from tests.docs_shell import rules

LIBRARIES = (
  'data_prep.prepare',
  'data_prep.sources',
  'grain',
  'orbax.checkpoint',
  'recjax.recommend',
  'recjax.report.build',
  'recjax.train',
  'sklearn.cluster',
  'sklearn.decomposition',
  'sklearn.feature_extraction.text',
)


def main(path: str) -> None:
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for library in LIBRARIES:
      importlib.import_module(library)
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended processes need no wait
  warnings.filterwarnings('ignore', message='.*fork', category=RuntimeWarning)
  with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.bind(path)
    server.listen()
    print('ready', flush=True)
    while True:
      connection, _ = server.accept()
      request, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 3)
      if os.fork() == 0:
        server.close()
        status = _run(json.loads(request), descriptors)
        connection.send(str(status).encode())
        os._exit(status)
      connection.close()
      for descriptor in descriptors:
        os.close(descriptor)


def _run(request: list, descriptors: list[int]) -> int:
  """Runs a command in this process as if it were a new one; returns its status."""
  name, arguments, folder, environment = request
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, number)
  os.chdir(folder)
  os.environ.clear()
  os.environ.update(environment)
  status = 0
  try:
    if name == 'recjax':
      arguments = ['-m', *_module_of(arguments)]
    _start(arguments)
  except SystemExit as error:
    if isinstance(error.code, str):
      print(error.code, file=sys.stderr)
    status = error.code if isinstance(error.code, int) else int(error.code is not None)
  except Exception:  # noqa: BLE001 (this process is the program's)
    traceback.print_exc()
    status = 1
  sys.stdout.flush()
  sys.stderr.flush()
  return status & 255


def _module_of(arguments: list[str]) -> list[str]:
  """Returns the module that the command `recjax` runs, and its arguments."""
  if arguments[:1] == ['inspect']:
    return ['recjax.inspect', *arguments[1:]]
  return ['recjax.main', *arguments]


def _start(arguments: list[str]) -> None:
  """Runs `-m MODULE …`, `-c CODE …` or `FILE …`, as Python does."""
  match arguments:
    case ['-m', module, *rest]:
      _run_module(module, rest)
    case ['-c', code, *rest]:
      sys.argv = ['-c', *rest]
      exec(compile(code, '<string>', 'exec'), {'__name__': '__main__'})
    case ['-' | []]:
      exec(compile(sys.stdin.read(), '<stdin>', 'exec'), {'__name__': '__main__'})
    case [file, *rest]:
      sys.argv = [file, *rest]
      runpy.run_path(file, run_name='__main__')
    case _:
      raise SystemExit(f'python must get a module, code or a file; got {arguments}')


def _run_module(module: str, arguments: list[str]) -> None:
  plan = rules.plan(module, arguments)
  if plan == 'parse':
    _parse(module, arguments)
    return
  if plan == 'launch':
    launcher = importlib.import_module(module)
    _, program = launcher._parse(arguments)
    if status := launcher.main([*arguments, '--dry_run']):
      raise SystemExit(status)
    _parse('recjax.main', program)
    return
  sys.argv = [module, *rules.small(module, [*arguments, *plan])]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def _parse(module: str, arguments: list[str]) -> None:
  """Parses the flags of a program, and checks its config."""
  sys.argv = [module, *arguments]  # ml_collections reads the overrides here
  package = importlib.import_module(module)
  if hasattr(package, '__path__'):
    importlib.import_module(f'{module}.__main__')
  if 'config' not in flags.FLAGS:
    overrides = [
      each for each in arguments if each.startswith('--config.')
    ]  # of the runs it starts
    app.parse_flags_with_usage([each for each in sys.argv if each not in overrides])
    return
  rest = flag.parse_flags(sys.argv)
  if len(rest) > 1:
    raise SystemExit(f'{module}: unknown arguments {rest[1:]}')
  if flags.FLAGS['config'].value is not None:
    config_lib.from_config_dict(flags.FLAGS['config'].value)


if __name__ == '__main__':
  main(sys.argv[1])
