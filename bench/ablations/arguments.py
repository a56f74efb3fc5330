"""Reads the arguments of a table of ablations."""

from collections.abc import Sequence
import re

from launch.options import portable
from recjax.runtime import files

# Fields that the command sets for every run.
_TAKEN = ('config.seed', 'config.data.raw_dir', 'config.data.prepared_dir')


def data(values: Sequence[str]) -> dict[str, str | None]:
  """Returns the folder of every data set of --data; None if it has none.

  Raises:
    ValueError: a data set has no name or is named twice.
    OSError: a folder does not exist.
  """
  found: dict[str, str | None] = {}
  for value in values:
    name, _, folder = value.partition('=')
    if not re.fullmatch(r'\w[\w.-]*', name) or name in found:  # also the name of a folder
      raise ValueError(
        'the names of --data must begin with a letter or a digit, hold letters, digits, _, . and -, and occur once, as '
        f'in beauty=FOLDER; got {portable([f"--data={value}"])[0]}'
      )
    if folder:
      files.existing(folder, f'--data={name}', 'folder')
    found[name] = folder or None
  return found


def seeds(values: Sequence[str]) -> list[int]:
  """Returns the numbers of --seeds.

  Raises:
    ValueError: they are not different numbers.
  """
  if not values or not all(value.isdecimal() for value in values) or len({*values}) < len(values):
    raise ValueError(f'--seeds must be different numbers, 0 or more; got {",".join(values)!r}')
  return [int(value) for value in values]


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the arguments of this command, and those that change a field of the config of every run."""
  is_extra = [argument.lstrip('-').startswith('config.') for argument in arguments]
  own = [argument for argument, extra in zip(arguments, is_extra, strict=True) if not extra]
  return own, [argument for argument, extra in zip(arguments, is_extra, strict=True) if extra]


def checked(arguments: Sequence[str]) -> list[str]:
  """Returns the arguments for every run.

  Raises:
    ValueError: one is not --config.FIELD=VALUE, or its field is set by the command.
  """
  for argument in arguments:
    name = argument.lstrip('-').partition('=')[0]
    if not name.startswith('config.') or '=' not in argument or name in _TAKEN:
      raise ValueError(
        'further arguments must be --config.FIELD=VALUE; config, seed and folders are set by --base, --seeds, --data and '
        f'--workdirs; got {argument!r}'
      )
  return list(arguments)
