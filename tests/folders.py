"""The root of the repository, and the contents of a folder, for tests that compare files byte by byte."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parents[1]  # the root of the repository


def contents(folder: os.PathLike) -> dict[str, bytes]:
  """Returns the bytes of every file below a folder, by relative path."""
  folder = pathlib.Path(folder)
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
