"""Finds the files of a table: one file, a folder of parts, or several numbered files.

For the table `interactions` these are one of:

  interactions.parquet                      one file; also .csv, .tsv, .txt, and these with .gz or .zst
  interactions.parquet/, interactions/      a folder of parts, as Spark and Hive write it, with its subfolders;
                                            subfolders <column>=<value> add a column
  interactions-00000-of-00002.parquet, …    files of the Hugging Face hub; the set must be complete
  interactions-2024-01.csv, …               any other files interactions-*, interactions_*, interactions.*

Names that begin with '.' or '_', such as _SUCCESS, are ignored. An option may name another file, folder or glob.
"""

from collections.abc import Iterator, Sequence
import fnmatch
import os
import re
import urllib.parse

from etils import epath

from data_prep.sources.raw_files import COMPRESSED

_TEXT = ('.csv', '.tsv', '.txt')
SUFFIXES = ('.parquet', *(text + packed for text in _TEXT for packed in ('', *COMPRESSED)))
_NUMBERED = re.compile(r'(?P<stem>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<end>\D*)')
_PATTERN = re.compile(r'[*?\[]')
_NO_VALUE = '__HIVE_DEFAULT_PARTITION__'


def like(raw_dir: epath.Path, name: str) -> list[str]:
  """Returns the names in a folder that begin with the name of a table, in any case."""
  return [path.name for path in _visible(raw_dir) if path.name.lower().startswith(name)]


def find(raw_dir: epath.Path, name: str, given: str | None, field: str) -> list[epath.Path]:
  """Returns the files of a table, sorted; [] if there are none.

  Args:
    raw_dir: the folder of the raw files.
    name: name of the table: 'interactions' or 'items'.
    given: a file, a folder or a glob, relative to `raw_dir` or absolute; None: the usual names (see above).
    field: the config field that sets `given`.

  Raises:
    ValueError: several files or folders match, or a folder cannot be read as parts.
    FileNotFoundError: a part of a numbered set is missing.
  """
  if given is not None:
    files = _given(raw_dir, given)
  else:
    files = _named(raw_dir, name, field)
  files = _without_unpacked(files)
  _check_complete(files, field)
  kinds = {path.suffix == '.parquet' for path in files}
  if len(kinds) > 1:
    raise ValueError(
      f'{files[0].parent} must hold the parts of {name} in one format; it holds {files[0].name} and '
      f'{files[-1].name}. Set --config.{field} to a pattern such as {name}-*.parquet'
    )
  return files


def _given(raw_dir: epath.Path, given: str) -> list[epath.Path]:
  exact = raw_dir / given
  if exact.exists():  # tested first, because a file name may contain glob characters
    return _inside(exact) if exact.is_dir() else [exact]
  if not _PATTERN.search(given):
    return []
  folder, _, pattern = given.rpartition('/')
  if _PATTERN.search(folder):
    raise ValueError(
      f'a pattern must be in the last part of a path; got {given!r}. Set only the folder to read all files in it'
    )
  parent = raw_dir / folder
  found = [path for path in _visible(parent) if fnmatch.fnmatchcase(path.name, pattern)]
  return [file for path in found for file in (_inside(path) if path.is_dir() else [path])]


def _named(raw_dir: epath.Path, name: str, field: str) -> list[epath.Path]:
  entries = _visible(raw_dir)
  exact_names = {name, *(name + suffix for suffix in SUFFIXES)}
  exact_files = [
    path for path in entries if path.name in exact_names and (path.is_dir() or path.name != name)
  ]
  others = [
    path
    for path in entries
    if path.name[len(name) : len(name) + 1] in ('-', '_', '.')
    and path.name.startswith(name)
    and path.name.endswith(SUFFIXES)
    and path.name not in exact_names
    and not path.is_dir()
  ]
  exact_files = _without_unpacked(exact_files)
  numbered = [path for path in others if _NUMBERED.fullmatch(path.name)]
  if len(exact_files) > 1 or (exact_files and numbered):
    both = [*exact_files, *numbered][:2]
    raise ValueError(
      f'{raw_dir} must hold one of {" and ".join(path.name for path in both)}, not both. Remove one, or set '
      f'--config.{field}'
    )
  if exact_files:
    return _inside(exact_files[0]) if exact_files[0].is_dir() else exact_files
  if numbered and len(numbered) < len(others):
    other = next(path for path in others if path not in numbered)
    raise ValueError(
      f'{raw_dir} must hold one table {name}; it holds {numbered[0].name} and {other.name}. Set '
      f'--config.{field} to a pattern such as {name}-*-of-*.parquet'
    )
  return others


def _without_unpacked(files: Sequence[epath.Path]) -> list[epath.Path]:
  """Drops files that have a compressed copy."""
  packed = {path.with_suffix('') for path in files if path.suffix in COMPRESSED}
  return [path for path in files if path not in packed]


def partition(path: epath.Path) -> dict[str, str | None]:
  """Returns the names and values of the folders `<name>=<value>` that directly enclose a file."""
  found = {}
  for folder in path.parents:
    name, sign, value = folder.name.partition('=')
    if not (name and sign):
      break
    found[urllib.parse.unquote(name)] = None if value == _NO_VALUE else urllib.parse.unquote(value)
  return found


def _inside(folder: epath.Path) -> list[epath.Path]:
  """The parts in a folder and its subfolders.

  Raises:
    ValueError: the folder is a Delta table, or the output of an unfinished job.
  """
  names = {path.name for path in folder.iterdir()}
  if '_delta_log' in names:
    raise ValueError(
      f'{folder} must be plain Parquet; it is a Delta table, whose files include deleted rows. Export it first'
    )
  if '_temporary' in names:
    raise ValueError(
      f'{folder} must be complete; it holds _temporary, the output of an unfinished job'
    )
  return list(_walk(folder))


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  for path in _visible(folder):
    if path.is_dir():
      # A link to an enclosing folder would be followed without end.
      if not f'{os.path.realpath(folder)}/'.startswith(f'{os.path.realpath(path)}/'):
        yield from _walk(path)
    elif path.name.endswith(SUFFIXES):
      yield path


def _visible(folder: epath.Path) -> list[epath.Path]:
  if not folder.is_dir():
    return []
  return sorted(path for path in folder.iterdir() if not path.name.startswith(('.', '_')))


def _check_complete(files: Sequence[epath.Path], field: str) -> None:
  """Checks that sets such as x-00000-of-00002.parquet have all their parts."""
  sets: dict[tuple[str, str], dict[int, epath.Path]] = {}
  counts: dict[tuple[str, str], set[str]] = {}
  for path in files:
    if match := _NUMBERED.fullmatch(path.name):
      key = (str(path.parent / match['stem']), match['end'])
      sets.setdefault(key, {})[int(match['number'])] = path
      counts.setdefault(key, set()).add(match['count'])
  for key, numbers in sets.items():
    first = next(iter(numbers.values()))
    if len(counts[key]) > 1:
      raise ValueError(
        f'{first.parent} must hold parts of one set; it holds parts of {" and ".join(sorted(counts[key]))}. '
        f'Remove one set, or set --config.{field}'
      )
    count = int(next(iter(counts[key])))
    start = 1 if count in numbers and 0 not in numbers else 0
    absent = [n for n in range(start, count + start) if n not in numbers]
    if absent or max(numbers) >= count + start:
      match = _NUMBERED.fullmatch(first.name)
      digits = len(match['number'])
      names = [
        f'{match["stem"]}{n:0{digits}d}-of-{match["count"]}{match["end"]}' for n in absent[:3]
      ]
      more = f' and {len(absent) - 3:,} more' if len(absent) > 3 else ''
      raise FileNotFoundError(
        f'{" and ".join(names)}{more} must be in {first.parent}, which holds {len(numbers):,} of {count:,} '
        'parts. Set --config.data.raw_dir to the folder that holds them all'
      )
