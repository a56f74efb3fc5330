"""Where the real data sets lie, for tests that read them by path and skip where they are absent."""

import os
import pathlib

import pytest

SHARED = pathlib.Path(
  os.environ.get('RECJAX_SHARED', pathlib.Path(__file__).parents[2] / 'shared' / 'data')
)


def needs_shared(subpath: str) -> pytest.MarkDecorator:
  """Skips a test where the real data set is not beside the checkout."""
  return pytest.mark.skipif(
    not (SHARED / subpath).exists(), reason=f'needs the real data at {SHARED / subpath}'
  )
