"""Reads the histories of a file for the scripts of this folder, and writes the ranked items. Needs Python alone."""

import json


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
    except ValueError as error:
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
  """Writes the rows with their ranked items as `recommendations`."""
  with open(path, 'w', encoding='utf-8') as f:
    for row, items in zip(rows, ranked, strict=True):
      f.write(json.dumps(row | {'recommendations': items}) + '\n')
  print(f'{len(rows)} histories -> {path}')
