"""A fixture that has a test run twice: as usual, and with arrays in files and blocks of a few interactions."""

import pytest

from data_prep.log import arrays, sorting


@pytest.fixture(params=['whole', 'blocks'])
def sizes(request, monkeypatch):
  """Processes logs as a whole, or in blocks of 16 interactions."""
  if request.param == 'blocks':
    monkeypatch.setattr(arrays, 'BLOCK', 16)
    monkeypatch.setattr(arrays, 'LEAST', 1)
    monkeypatch.setattr(sorting, 'PART', 24)
  return request.param
