"""What the launchers' command lines have in common: their own options, and the program's arguments."""

import argparse
from collections.abc import Sequence


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """The launcher's options, and everything else, which is for the program; all after `--` is, too."""
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
  """The value of a flag of the program, given as --name=value or --name value."""
  for i, argument in enumerate(program):
    if argument.startswith(f'--{name}='):
      return argument.partition('=')[2]
    if argument == f'--{name}' and i + 1 < len(program):
      return program[i + 1]
  return None


def require_bucket(parser: argparse.ArgumentParser, program: Sequence[str]) -> None:
  """Ends with a message where the program would write onto machines that are taken away with their disks."""
  for name in ('workdir', 'config.data.prepared_dir'):
    value = flag(program, name)
    if value is None or not value.startswith('gs://'):
      parser.error(
        f'--{name} must be a gs:// path, which all machines share and which outlives them; got {value!r}'
      )
