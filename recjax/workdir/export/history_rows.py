"""Reads the histories of a file for the scripts of this folder, and writes the ranked items. Needs Python alone."""

import json
import os
import pathlib

_OTHERS = ('.gz', '.parquet', '.pq')


def check(histories, out):
  """Checks the names of both files and the folder of the output, before anything is ranked.

  Args:
    histories: the file of histories.
    out: the file to write.

  Raises:
    ValueError: a name is that of a compressed or Parquet file.
    OSError: the output has no folder, or is one.
  """
  for path, what in ((histories, 'the histories'), (out, 'the output')):
    if str(path).lower().endswith(_OTHERS):
      raise ValueError(f'{what} must be plain JSON lines, such as x.jsonl; got {path}')
  folder = pathlib.Path(out).absolute().parent
  if not folder.is_dir():
    raise NotADirectoryError(f'the folder of the output must exist; {folder} does not: make it')
  if pathlib.Path(out).is_dir():
    raise IsADirectoryError(f'the output must be a file; {out} is a folder')


def read(path, known, columns, skip_unknown):
  """Returns the objects of a file of histories.

  Args:
    path: JSON lines with "history": raw item ids, oldest first.
    known: the ids of the catalogue.
    columns: optional keys that are read: `times`, `events`.
    skip_unknown: move unknown items to the key `unknown`; otherwise they are an error.

  Raises:
    ValueError: a line is not a history, or there is none.
  """
  rows = []
  with open(path, 'rb') as f:
    lines = f.read().split(b'\n')
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    place = f'{path}:{number}'
    try:
      row = json.loads(line.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{place}: a line must be a JSON object; {error}') from error
    if not isinstance(row, dict) or not isinstance(row.get('history'), list):
      raise ValueError(f'{place}: a line must be an object with a list "history"')
    row['history'] = [str(item) if type(item) is int else item for item in row['history']]
    for name in columns:
      if name in row and (not isinstance(row[name], list) or len(row[name]) != len(row['history'])):
        raise ValueError(f'{place}: {name} must be a list with one value per item of the history')
    rows.append(_known(row, known, columns, place, skip_unknown))
  if not rows:
    raise ValueError(f'{path} must hold at least one history; it is empty')
  return rows


def _known(row, known, columns, place, skip_unknown):
  """Returns a row without the items that the catalogue lacks."""
  is_known = [isinstance(item, str) and item in known for item in row['history']]
  unknown = [i for i, is_in in zip(row['history'], is_known, strict=True) if not is_in]
  if not unknown:
    return row
  if not skip_unknown:
    raise ValueError(
      f'{place}: every item must be in the catalogue; {unknown[0]!r} is not. Set --skip_unknown to leave '
      'such items out'
    )
  for name in ('history', *(name for name in columns if name in row)):
    row[name] = [value for value, is_in in zip(row[name], is_known, strict=True) if is_in]
  return row | {'unknown': unknown}


def write(path, rows, ranked):
  """Writes the rows with their ranked items as `recommendations`; the file appears when it is whole."""
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with open(partial, 'w', encoding='utf-8') as f:
      for row, items in zip(rows, ranked, strict=True):
        f.write(_line(row | {'recommendations': items}) + '\n')
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
  print(f'{len(rows)} histories -> {path}')


def _line(row):
  """Returns an object as JSON, with null for numbers that are not finite, which JSON does not have."""
  try:
    return json.dumps(row, allow_nan=False)
  except ValueError:
    return json.dumps(json.loads(json.dumps(row), parse_constant=lambda _: None))
