"""Amazon reviews of 2014: McAuley's 5-core reviews and metadata, one object a line.

McAuley et al., "Image-based recommendations on styles and substitutes" (SIGIR 2015). The published
metadata holds Python literals, copies of it often JSON: both are read, gzipped or plain.
"""

import ast
from collections.abc import Iterator
import gzip
import json
import pathlib
from typing import Any
import zlib

from etils import epath
import numpy as np
import tqdm

from data_prep import download, interactions
from recjax import config

URL = 'http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/'
_INT64 = np.iinfo(np.int64)


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """Official name → path of the two files; the path of a plain file where only that one is there.

  Raises:
    ValueError: no category is set.
  """
  config.check(
    bool(data.category),
    'data.category must name the category in the file names, such as Beauty',
    data.category,
    'data.category',
  )
  files = {}
  for name in (f'reviews_{data.category}_5.json.gz', f'meta_{data.category}.json.gz'):
    packed, plain = raw_dir / name, raw_dir / name.removesuffix('.gz')
    files[name] = plain if plain.exists() and not packed.exists() else packed
  return files


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Downloads the files that are missing if `data.download` is set.

  Raises:
    FileNotFoundError: files are missing and are not to be, or cannot be, downloaded.
  """
  missing = [name for name, path in input_files(data, raw_dir).items() if not path.exists()]
  if missing and data.download:
    download.fetch_all(data.download_url or URL, missing, pathlib.Path(raw_dir))
  elif missing:
    raise FileNotFoundError(
      f'{" and ".join(missing)} must be in {raw_dir} (plain .json is read too). They are published '
      f'at {URL}. Set --config.data.raw_dir to the folder that holds them, or '
      '--config.data.download=True to fetch them'
    )


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads reviewerID, asin and unixReviewTime of the reviews, and all metadata.

  Args:
    data: `category` names the files.
    raw_dir: the folder that holds them.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is truncated, a line is no object, or a field is missing or of a wrong kind; the
      message names file and line.
  """
  fetch(data, raw_dir)
  reviews, meta = input_files(data, raw_dir).values()
  users, items, times = [], [], []
  for where, review in _objects(reviews):
    users.append(_id(review, 'reviewerID', where))
    items.append(_id(review, 'asin', where))
    times.append(_time(review, where))
  if not users:
    raise ValueError(f'{reviews} must hold reviews; it holds none')
  records = {}
  for where, row in _objects(meta):
    records[_id(row, 'asin', where)] = _record(row, where)
  return interactions.RawLog(np.array(users), np.array(items), np.array(times, np.int64), records)


def _objects(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """`file:line` and the object of every line that is not blank."""
  number = 0
  with (
    path.open('rb') as raw,
    tqdm.tqdm(desc=path.name, total=path.stat().length, unit='B', unit_scale=True) as progress,
  ):
    lines = gzip.GzipFile(fileobj=raw) if path.suffix == '.gz' else raw
    try:
      for number, line in enumerate(lines, 1):
        if not line.isspace():
          yield f'{path}:{number}', _parse(line, f'{path}:{number}')
        if number % 1000 == 0:
          progress.update(raw.tell() - progress.n)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
      raise ValueError(
        f'{path}:{number + 1}: the gzip file must be whole; {error}. Remove it and fetch it again'
      ) from None
    progress.update(raw.tell() - progress.n)


def _parse(line: bytes, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except ValueError:  # JSON errors and bytes that are not UTF-8
    try:
      row = ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      row = line
  except RecursionError:
    row = line
  if not isinstance(row, dict):
    raise ValueError(f'{where}: a line must be a JSON object or a Python dict; got {_short(line)}')
  return row


def _id(row: dict[str, Any], field: str, where: str) -> str:
  value = row.get(field)
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f'{where}: {field} must be a string that is not empty; got {_short(value)}')
  return value


def _time(row: dict[str, Any], where: str) -> int:
  value = row.get('unixReviewTime')
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  if not is_integer or not _INT64.min <= value <= _INT64.max:
    raise ValueError(
      f'{where}: unixReviewTime must be an integer, seconds since 1970; got {_short(value)}'
    )
  return value


def _record(row: dict[str, Any], where: str) -> dict[str, Any]:
  """The fields that we know, with their kinds checked; null counts as absent."""
  record = {}
  for field, (is_valid, must) in _FIELDS.items():
    value = row.get(field)
    if value is None:
      continue
    if not is_valid(value):
      raise ValueError(f'{where}: {field} must be {must}; got {_short(value)}')
    record[field] = value
  if len(record.get('title', '')) > interactions.MAX_TITLE:
    raise ValueError(
      f'{where}: a title must have at most {interactions.MAX_TITLE:,} characters; '
      f'got {len(record["title"]):,}'
    )
  return record


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_paths(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(path, list) and all(map(_is_text, path)) for path in value
  )


_FIELDS = {
  'title': (_is_text, 'a string'),
  'brand': (_is_text, 'a string'),
  'description': (_is_text, 'a string'),
  'price': (_is_number, 'a number'),
  'categories': (_is_paths, 'a list of lists of strings'),
}


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}…'
