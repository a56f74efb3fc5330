"""Targets in their own history, counted against a loop over sets."""

import numpy as np
import pytest

from data_prep.log import interactions, raw_log, splits, unreachable

RNG = np.random.default_rng(0)
USERS, ITEMS, LENGTH = 40, 12, 9


def arrays(kind):
  users = np.repeat([f'u{u:02}' for u in range(USERS)], LENGTH)
  items = np.array([f'i{i:02}' for i in RNG.integers(0, ITEMS, len(users))])
  log = raw_log.RawLog(users, items, np.arange(len(users)) % LENGTH * 100, {})
  cleaned = interactions.clean(log, 0, 'drop')
  return splits.split(cleaned, kind, (0.5, 0.25, 0.25), 0)


@pytest.mark.usefixtures('sizes')
def test_leave_one_out_counts_equal_a_loop():
  split_arrays = arrays('leave_one_out')
  expected = {'validation': 0, 'test': 0}
  for u, (start, end) in enumerate(
    zip(split_arrays['train_offsets'], split_arrays['train_offsets'][1:], strict=False)
  ):
    seen = set(split_arrays['train_items'][start:end].tolist())
    expected['validation'] += int(split_arrays['validation_items'][u]) in seen
    expected['test'] += int(split_arrays['test_items'][u]) in seen | {
      int(split_arrays['validation_items'][u])
    }
  assert unreachable.count(split_arrays) == expected
  assert 0 < expected['test'] < USERS


@pytest.mark.usefixtures('sizes')
def test_global_time_counts_equal_a_loop():
  split_arrays = arrays('global_time')
  expected = {}
  for split in ('validation', 'test'):
    items, offsets = (split_arrays[f'{split}_history_{name}'] for name in ('items', 'offsets'))
    expected[split] = sum(
      target in items[offsets[n] : offsets[n + 1]]
      for n, target in enumerate(split_arrays[f'{split}_items'])
    )
  assert unreachable.count(split_arrays) == expected
  assert expected['test'] > 0
