"""What folders hold, for tests that compare artifacts byte by byte."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parents[1]  # of the repository


def contents(folder: os.PathLike) -> dict[str, bytes]:
  """Every file below a folder, by relative name."""
  folder = pathlib.Path(folder)
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
