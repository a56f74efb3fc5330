"""The folder of real data sets, and a marker that skips tests if a data set is absent."""

import os
import pathlib

import pytest

SHARED = pathlib.Path(
  os.environ.get('RECJAX_SHARED', pathlib.Path(__file__).parents[2] / 'shared' / 'data')
)


def needs_shared(subpath: str) -> pytest.MarkDecorator:
  """Returns a marker that skips a test if a real data set is absent."""
  return pytest.mark.skipif(
    not (SHARED / subpath).exists(), reason=f'needs the real data at {SHARED / subpath}'
  )
