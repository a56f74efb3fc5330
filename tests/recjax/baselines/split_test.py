import pytest

from tests.recjax.baselines import logs


def test_items_outside_the_catalogue_are_refused():
  good, bad = [[0, 1, 2]], [[0, 7]]
  logs.split_of([], [], num_items=3)
  for rows in ({'train': bad}, {'counted': bad}, {'histories': bad}, {'histories': [[-1]]}):
    with pytest.raises(ValueError, match=r'be in \[0, 3\)'):
      logs.split_of(**{'train': good, 'counted': good, 'histories': good} | rows, num_items=3)
