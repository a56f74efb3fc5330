"""Command lines of the launchers: their own options and the program's arguments; commands to record."""

import argparse
from collections.abc import Iterator, Sequence
import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the launcher's options and the program's arguments: unknown ones, and all after `--`."""
  argv = list(argv)
  cut = argv.index('--') if '--' in argv else len(argv)
  options, program = parser.parse_known_args(argv[:cut])
  return options, program + argv[cut + 1 :]


def positive(text: str) -> int:
  """An argparse type: 1 or more."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'must be a positive number; got {text!r}')
  return int(text)


def not_negative(text: str) -> int:
  """An argparse type: 0 or more."""
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f'must be a number, 0 or more; got {text!r}')
  return int(text)


def flag(program: Sequence[str], name: str) -> str | None:
  """Returns the value of one of the program's flags, given as --name=value or --name value."""
  for i, argument in enumerate(program):
    if argument.startswith(f'--{name}='):
      return argument.partition('=')[2]
    if argument == f'--{name}' and i + 1 < len(program):
      return program[i + 1]
  return None


def usable_hosts(
  program: Sequence[str], at_most: int, processes: int = 1, devices: int = 1
) -> tuple[int | None, str]:
  """Asks `launch.elastic`, which needs JAX, in a process of its own: a launcher starts processes by fork.

  Args:
    program: the program's arguments, with its --workdir.
    at_most: hosts that are left.
    processes: processes of each host.
    devices: devices of each process.

  Returns:
    The number of hosts that the run can go on with; or None, and why there is none.
  """
  if not at_most:
    return None, 'no host is left'
  command = [sys.executable, '-m', 'launch.elastic', f'--workdir={flag(program, "workdir")}']
  command += [f'--at_most={at_most}', f'--processes={processes}', f'--devices={devices}']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    return None, done.stderr.strip().removeprefix('launch.elastic: ')
  return int(done.stdout.split()[-1]), ''


def require_bucket(parser: argparse.ArgumentParser, program: Sequence[str]) -> None:
  """Exits with a message if the program would write to local disks, which are deleted with their machines."""
  for name in ('workdir', 'config.data.prepared_dir'):
    value = flag(program, name)
    if value is None or not value.startswith('gs://'):
      parser.error(
        f'--{name} must be a gs:// path, which all machines share and which outlives them; got {value!r}'
      )


def portable(arguments: Sequence[str]) -> list[str]:
  """Returns arguments that can be published and used on another machine.

  Paths in this checkout become relative to it. Other paths become the upper-case name of their flag:
  `--config.data.raw_dir=/data/raw` becomes `--config.data.raw_dir=RAW_DIR`. A value may be a list of paths, and each may
  have a name: `--data=beauty=/data/a,toys=/data/b` becomes `--data=beauty=DATA,toys=DATA`.
  """
  return list(_portable(arguments))


def _portable(arguments: Sequence[str]) -> Iterator[str]:
  name = 'PATH'
  for argument in arguments:
    prefix, value = '', argument
    if argument.startswith('-'):
      option, is_assigned, value = argument.partition('=')
      prefix, name = option + is_assigned, option.rpartition('.')[2].lstrip('-').upper() or 'PATH'
    yield prefix + ','.join(_portable_part(part, name) for part in value.split(','))


def _portable_part(part: str, name: str) -> str:
  """Returns a part of a value, PATH or KEY=PATH, without a place on this machine."""
  key, is_assigned, value = part.rpartition('=')
  if not _is_path(value):
    return part
  path = pathlib.Path(os.path.abspath(os.path.expanduser(value)))
  is_inside = '://' not in value and path.is_relative_to(_ROOT)
  return key + is_assigned + (str(path.relative_to(_ROOT)) if is_inside else name)


def _is_path(value: str) -> bool:
  """Returns whether the text names a place on this machine or in a bucket, other than below the current folder."""
  return '://' in value or value.startswith(('~', '..')) or os.path.isabs(value)
