"""Downloads files over HTTP: resumes after a broken connection, checks the size, renames complete files."""

import contextlib
import http.client
import os
import pathlib
import shutil
import time
from typing import Any
import urllib.error
import urllib.request
import zipfile
import zlib

from recjax.runtime import logs

_CHUNK = 1 << 20  # bytes
_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def fetch(
  url: str,
  path: pathlib.Path,
  *,
  attempts: int = 5,
  pause_s: float = 2.0,
  timeout_s: float = 60.0,
) -> None:
  """Downloads one file. An incomplete download stays in `<path>.part` and is resumed.

  Args:
    url: http or https.
    path: path of the downloaded file; its folder is created.
    attempts: consecutive connections without progress before the download fails.
    pause_s: seconds before the next connection.
    timeout_s: seconds without data after which a connection counts as broken.

  Raises:
    FileNotFoundError: the server does not have the file.
    ValueError: the server does not send a Content-Length.
    ConnectionError: the download is incomplete; the next call resumes it.
  """
  if os.path.exists(path):
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + '.part')
  failures, problem = 0, ''
  while failures < attempts:
    if failures:
      time.sleep(pause_s)
    before = _size(part)
    try:
      total = _continue(url, part, timeout_s)
    except urllib.error.HTTPError as error:
      if error.code < 500 and error.code not in (408, 429):
        raise FileNotFoundError(
          f'{url} cannot be fetched: HTTP {error.code} {error.reason}. '
          'Check --config.data.category and --config.data.download_url'
        ) from None
      problem = f'HTTP {error.code} {error.reason}'
    except _TRANSIENT as error:
      problem = str(error) or type(error).__name__
    else:
      if _size(part) == total:
        part.rename(path)
        return
      problem = f'{_size(part)} of {total} bytes arrived'
    failures = 1 if _size(part) > before else failures + 1
  raise ConnectionError(
    f'{url} could not be fetched in {attempts} attempts ({problem}). The partial file is kept as {part}: '
    'run the same command again to resume'
  )


def fetch_zip(url: str, folder: pathlib.Path, **kwargs: Any) -> None:
  """Downloads a zip archive, and unpacks all its files directly into the folder.

  The files are unpacked and checked in a temporary folder first, and then replace files of the same name. The
  archive is removed.

  Args:
    url: http or https address of the archive.
    folder: folder of the unpacked files; it is created.
    **kwargs: passed to `fetch`.

  Raises:
    ValueError: the archive is invalid, or has two files of one name.
    Exception: see `fetch`.
  """
  archive = folder / url.rpartition('/')[2]
  fetch(url, archive, **kwargs)
  unpacked = folder / f'.{archive.stem}.partial'
  shutil.rmtree(unpacked, ignore_errors=True)
  unpacked.mkdir()
  try:
    with zipfile.ZipFile(archive) as members:
      for member in members.infolist():
        name = pathlib.PurePosixPath(member.filename).name
        if not member.is_dir() and name:
          # Reading a member to its end verifies its checksum.
          with members.open(member) as packed, (unpacked / name).open('xb') as f:
            shutil.copyfileobj(packed, f)
    for path in sorted(unpacked.iterdir()):
      path.replace(folder / path.name)
    archive.unlink()
  except (zipfile.BadZipFile, zlib.error, EOFError, FileExistsError, RuntimeError) as error:
    archive.unlink()
    raise ValueError(
      f'{url} must be a complete zip file without two files of one name; {error}. It was removed'
    ) from None
  finally:
    shutil.rmtree(unpacked)


def _continue(url: str, part: pathlib.Path, timeout_s: float) -> int:
  """Appends the bytes of one connection to `part`; returns the size of the complete file in bytes."""
  start = _size(part)
  request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {})
  try:
    response = urllib.request.urlopen(request, timeout=timeout_s)
  except urllib.error.HTTPError as error:
    with error:
      if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise
    return _size_if_complete(error.headers.get('Content-Range', ''), part)
  with contextlib.closing(response):
    length = response.headers.get('Content-Length')
    if length is None:
      raise ValueError(
        f'{url} must be served with a Content-Length, which is needed to check the size; it has none'
      )
    if response.status != http.client.PARTIAL_CONTENT:
      start = 0  # the server ignores the range and sends the whole file
    with (
      part.open('ab') as f,
      logs.progress(
        desc=part.stem, total=start + int(length), initial=start, unit='B', unit_scale=True
      ) as progress,
    ):
      f.truncate(start)
      while chunk := response.read(_CHUNK):
        f.write(chunk)
        progress.update(len(chunk))
      f.flush()
      os.fsync(f.fileno())
  return start + int(length)


def _size_if_complete(content_range: str, part: pathlib.Path) -> int:
  """Reads the answer `bytes */total` to a range beyond the end; returns the size if `part` is complete."""
  total = content_range.rpartition('/')[2]
  if not total.isdecimal() or int(total) != _size(part):
    part.unlink()
    raise ConnectionError(f'{part} did not belong to the file on the server and was removed')
  return int(total)


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0
