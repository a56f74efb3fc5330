"""The flag --config: loads an experiment's file and applies overrides. Errors are one line."""

from collections.abc import Callable, Iterator
import contextlib
import importlib.util
import os
import pathlib
import re
import sys
import sysconfig
import traceback
import types
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from recjax.schema.conversion import unknown_field
from recjax.schema.names import near, question
from recjax.schema.overrides import add_named, assignments, possible

_HELP = (
  'The experiment: FILE.py, recjax:NAME (a config of the package) or one of them with :VARIANT; or config.json of '
  'a workdir, which is the default with --workdir. --config.FIELD=VALUE changes one field; --mode=config prints '
  'all fields.'
)
_LENGTHS = {'num_train_steps': 'num_epochs', 'num_epochs': 'num_train_steps'}
# Sizes that may be left to the data; see recjax.workdir.sizes.
_SIZES = (
  'codes|batch_size|row_length|decoder_row_length|rows|warmup_steps|num_train_steps|num_epochs|eval_users|'
  'log_every_steps|eval_every_steps|checkpoint_every_steps'
)
_AUTO = re.compile(rf'--?config\.((?:\w+\.)*(?:{_SIZES}))=(?:auto|None)')
_PACKAGE = 'recjax:'
_ARGV: list[str] = []  # the command line, where ml_collections reads the overrides
_SHARED = ('__init__', 'common')  # modules of configs/ that are no config
# The folder of the configs, in a checkout and where the package is installed.
_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'

# Path of a workdir's config.json → its config.
ReadSaved = Callable[[str], ml_collections.ConfigDict]
_PLACES = 6  # of a traceback in a message
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ('stdlib', 'platlib', 'purelib'))


class ConfigFileError(Exception):
  """The experiment's file cannot be loaded; the message names the file and the line."""


def define(read_saved: ReadSaved) -> flags.FlagHolder:
  """Defines --config. Programs with this flag parse their arguments with `parse_flags`.

  Args:
    read_saved: reads config.json of a workdir.
  """
  holder = config_flags.DEFINE_config_file('config', None, _HELP, lock_config=True, sys_argv=_ARGV)
  flags.FLAGS['config'].parser = _FileParser(read_saved)
  return holder


def saved_in(value: str) -> str | None:
  """Returns the workdir of a value of --config that names its config.json; None for another value."""
  return os.path.dirname(os.path.expanduser(value)) or '.' if value.endswith('.json') else None


def split(value: str) -> tuple[str, str | None]:
  """Returns file or name, and variant, of a value of --config that names a program; None: no variant."""
  file, *variant = os.path.expanduser(value.removeprefix(_PACKAGE)).split(':', 1)
  return file, variant[0] if variant else None


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags as absl does, for `app.run(flags_parser=…)`.

  A wrong flag, config file or field ends the program with a message of one line. The last of several overrides of
  a field is valid; they may precede --config. The value `auto` leaves a size to the data, and a flag for one of
  num_train_steps and num_epochs unsets the other.
  """
  try:
    argv = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
  except flags.Error as error:
    sys.exit(str(error))
  argv = _config_first(_with_workdir_config(_without_replaced(argv)))
  given = set(overrides(argv))
  left = {match[1] for argument in argv if (match := _AUTO.fullmatch(argument))}
  argv = [argument for argument in argv if not _AUTO.fullmatch(argument)]
  left |= {path for path in map(_other_length, given - left) if path and path not in given}
  _check_choices(argv)
  if given and not re.match(r'--?config(=|$)', ''.join(argv[1:2])):
    sys.exit(
      f'--config.{min(given)} changes a field of a config, and none is given; set --config=FILE.py or '
      f'--config={_PACKAGE}NAME ({", ".join(names())}), or --workdir of a run'
    )
  _ARGV[:] = argv
  try:
    rest = flags.FLAGS(argv)
    if flags.FLAGS['config'].value is not None:
      for path in left:
        _leave_to_data(flags.FLAGS['config'].value, path)
    return rest
  except ConfigFileError as error:
    sys.exit(str(error))
  except flags.IllegalFlagValueError as error:
    sys.exit(_wrong_value(str(error), flags.FLAGS['config'].parser.config))
  except flags.Error as error:
    sys.exit(' '.join(str(error).split()))
  except (KeyError, AttributeError, ValueError) as error:
    known = list(_paths(flags.FLAGS['config'].parser.config))
    for path in overrides(argv):
      if path not in known:
        raise SystemExit(
          unknown_field(path, list(dict.fromkeys([*known, *possible(path)])))
        ) from error
      if names_unfit := [
        name for name in re.sub(r'\[.*?\]', '', path).split('.') if not name.isidentifier()
      ]:
        raise SystemExit(
          f'--config.{path}: on the command line a name must be letters, digits and _, and begin with no digit; got '
          f'{names_unfit[0]!r}'
        ) from error
    raise


class _FileParser(flags.ArgumentParser):
  """Calls `get_config` of the experiment's file, or reads config.json of a workdir."""

  config: ml_collections.ConfigDict | None = None  # before the overrides

  def __init__(self, read_saved: ReadSaved):
    self._read_saved = read_saved

  def flag_type(self) -> str:
    return 'config file'

  def parse(self, value: str) -> ml_collections.ConfigDict:
    """Returns the locked ConfigDict that a value of --config names.

    Raises:
      ConfigFileError: the file does not exist or fails.
    """
    if value.endswith('.json'):
      try:
        config = self._read_saved(value)
      except (ValueError, OSError) as error:
        raise ConfigFileError(str(error)) from error
    else:
      config = _get_config(value)
    try:
      add_named(config, _ARGV)
    except ValueError as error:
      raise ConfigFileError(str(error)) from error
    self.config = config.lock()
    return config


def _get_config(value: str) -> ml_collections.ConfigDict:
  file, variant = split(value)
  is_packaged = value.startswith(_PACKAGE)
  if is_packaged:
    file = _packaged(file)
  if not os.path.isfile(file):
    state = 'is a folder' if os.path.isdir(file) else 'does not exist'
    raise ConfigFileError(f'--config must name a file; got {file!r}, which {state}{_hint(file)}')
  try:
    with _imports_of_package() if is_packaged else contextlib.nullcontext():
      module = _load(file)
      if not hasattr(module, 'get_config'):
        raise ValueError('the file must define get_config(); it does not')
      config = module.get_config(*(() if variant is None else (variant,)))
    if not isinstance(config, ml_collections.ConfigDict):
      raise ValueError(f'get_config must return a ConfigDict; it returned {type(config).__name__}')
  except Exception as error:
    raise ConfigFileError(_message(error, file)) from error
  return config


def names() -> list[str]:
  """Returns the names of the configs of the package."""
  return sorted(path.stem for path in _CONFIGS.glob('*.py') if path.stem not in _SHARED)


def _packaged(name: str) -> str:
  """Returns the file of recjax:NAME."""
  known = names()
  if name not in known:
    raise ConfigFileError(
      f'--config={_PACKAGE}NAME must name a config of the package; got {name!r}{question(name, known) or "."} '
      f'Known: {", ".join(known)}'
    )
  return str(_CONFIGS / f'{name}.py')


@contextlib.contextmanager
def _imports_of_package() -> Iterator[None]:
  """Makes `import configs` lead to the configs of the package, also if the user's project has such a folder."""

  def is_config(name: str) -> bool:
    return name.split('.')[0] == _CONFIGS.name

  kept = {name: sys.modules.pop(name) for name in list(sys.modules) if is_config(name)}
  package = types.ModuleType(_CONFIGS.name)
  package.__path__ = [str(_CONFIGS)]
  sys.modules[_CONFIGS.name] = package
  try:
    yield
  finally:
    for name in list(filter(is_config, sys.modules)):
      del sys.modules[name]
    sys.modules.update(kept)


def _hint(file: str) -> str:
  """Returns the value that was probably meant instead of a file that does not exist."""
  if os.path.isfile(os.path.join(file, 'config.json')):
    return f'. Set --workdir={file}, or --config={os.path.join(file, "config.json")}'
  path = pathlib.Path(file)
  known = {other.stem: str(other) for other in path.parent.glob('*.py')}
  if path.parent.name in ('', _CONFIGS.name):
    known = {name: f'{_PACKAGE}{name}' for name in names()} | known
  found = [known[name] for name in near(path.stem, known) if name not in _SHARED]
  return f'. Did you mean {" or ".join(found)}?' if found else ''


def _load(file: str) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location('config_config', file)
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # dataclasses in the file look their module up
  spec.loader.exec_module(module)
  return module


def _message(error: Exception, file: str) -> str:
  """Returns one line: file and line of each frame in the user's code, then the error.

  A ValueError is a message to the user: only its line in the experiment's file is given.
  """
  if isinstance(error, SyntaxError):
    place = f'{error.filename}:{error.lineno}' if error.filename else file
    return f'{place}: {type(error).__name__}: {error.msg}'
  frames = traceback.extract_tb(error.__traceback__)
  own = [f for f in frames if os.path.realpath(f.filename) == os.path.realpath(file)]
  if isinstance(error, ValueError):
    return f'{file}{f":{own[-1].lineno}" if own else ""}: {error}'
  if own:
    frames = frames[frames.index(own[0]) :]
    frames = [f for f in frames if not f.filename.startswith(_LIBRARIES)]
  places = [f'{_short(f.filename)}:{f.lineno}' for f in frames] if own else [file]
  if len(places) > _PLACES:
    places = [*places[: _PLACES - 1], '…', places[-1]]
  line = f' ({frames[-1].line})' if own and frames[-1].line else ''
  cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
  is_sentence = bool(cause.args) and '\n' in str(cause.args[0])  # a ConfigDict's own error
  text = cause.args[0] if is_sentence else str(error)
  return f'{" -> ".join(places)}: {type(error).__name__}: {" ".join(text.split())}{line}'


def _short(file: str) -> str:
  """Returns the path from the current folder if the file is inside it."""
  short = os.path.relpath(file)
  return file if short.startswith('..') else short


def _other_length(path: str) -> str | None:
  """Returns the field that must be None if this one is set: a training has a number of steps or of epochs."""
  section, dot, name = path.rpartition('.')
  return section + dot + _LENGTHS[name] if name in _LENGTHS else None


def _leave_to_data(config: ml_collections.ConfigDict, path: str) -> None:
  """Sets a field to None, or `codes` to (), so that its value comes from the data."""
  *sections, name = path.split('.')
  for section in sections:
    config = config[section]
  config[name] = () if name == 'codes' else None


def _wrong_value(message: str, config: ml_collections.ConfigDict | None) -> str:
  """Returns the message for a flag whose value does not have its type."""
  match = re.match(r'flag --config\.([\w.]+)=(.*?): ', message, re.DOTALL)
  if match is None or config is None:
    return ' '.join(message.split())
  *sections, name = match[1].split('.')
  for section in sections:
    config = config[section]
  kind = config.get_type(name)
  flag = f'--config.{match[1]}'
  if issubclass(kind, ml_collections.ConfigDict):
    return f'{flag} is a section; set its fields, such as {flag}.NAME=VALUE. --mode=config prints all fields'
  return f'{flag} must be of type {kind.__name__}; got {match[2]!r}'


def _check_choices(argv: list[str]) -> None:
  """Ends the program if the value of a flag with choices, such as --mode, is none of them."""
  for argument in argv:
    match = re.match(r'--?(\w+)=(.*)', argument)
    parser = match and match[1] in flags.FLAGS and flags.FLAGS[match[1]].parser
    if isinstance(parser, flags.EnumParser) and match[2] not in parser.enum_values:
      known = parser.enum_values
      sys.exit(
        f'--{match[1]} must be one of {", ".join(known)}; got {match[2]!r}{question(match[2], known)}'
      )


def _with_workdir_config(argv: list[str]) -> list[str]:
  """Adds --config=W/config.json to arguments with --workdir=W, or --from=W, and without --config."""
  found = {'workdir': None, 'from': None}
  for n, argument in enumerate(argv):
    if re.match(r'--?config(=|$)', argument) or re.match(r'--?help', argument):
      return argv
    if match := re.match(r'--?(workdir|from)(?:=(.*))?$', argument):
      is_next = match[2] is None and n + 1 < len(argv)
      found[match[1]] = match[2] or (argv[n + 1] if is_next else None)
  workdir = found['from'] or found['workdir']
  if not workdir:
    return argv
  return [argv[0], f'--config={os.path.join(workdir, "config.json")}', *argv[1:]]


def _config_first(argv: list[str]) -> list[str]:
  """Moves --config before its overrides."""
  first, rest, arguments = [], [], iter(argv[1:])
  for argument in arguments:
    match = re.match(r'--?config(=|$)', argument)
    (first if match else rest).append(argument)
    if match and not match[1]:
      first += [value for value in [next(arguments, None)] if value is not None]
  return [argv[0], *first, *rest]


def overrides(argv: list[str]) -> Iterator[str]:
  """Yields the fields that arguments of a command set, such as 'eval.beams'."""
  for path, _ in assignments(flags.FLAGS.read_flags_from_files(argv, force_gnu=False)):
    yield path


def _without_replaced(argv: list[str]) -> list[str]:
  """Removes overrides before the last one of their field: ml_collections would join the tuples."""
  overrides = [re.match(r'--?(config\.[^=]+)=', argument) for argument in argv]
  last = {match[1]: n for n, match in enumerate(overrides) if match}
  return [
    argument
    for n, (argument, match) in enumerate(zip(argv, overrides, strict=True))
    if not match or last[match[1]] == n
  ]


def _paths(config: Any, prefix: str = '') -> Iterator[str]:
  if isinstance(config, ml_collections.ConfigDict):
    for name in config:
      yield prefix + name
      yield from _paths(config.get_ref(name).get(), f'{prefix}{name}.')
