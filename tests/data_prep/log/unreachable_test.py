"""Targets in their own history, counted against a loop over sets."""

import json
import logging

from etils import epath
import numpy as np
import pytest

from data_prep.log import interactions, raw_log, splits, unreachable
from recjax import config as config_lib
from recjax.data.prepared import Prepared

RNG = np.random.default_rng(0)
USERS, ITEMS, LENGTH = 40, 12, 9


def arrays(kind):
  users = np.repeat([f'u{u:02}' for u in range(USERS)], LENGTH)
  items = np.array([f'i{i:02}' for i in RNG.integers(0, ITEMS, len(users))])
  log = raw_log.RawLog(users, items, np.arange(len(users)) % LENGTH * 100, {})
  cleaned = interactions.clean(log, 0, 'drop')
  return splits.split(cleaned, kind, (0.5, 0.25, 0.25), 0)


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


@pytest.mark.parametrize(
  ('counts', 'exclude_seen', 'message'),
  [
    (
      {'validation': 0, 'test': 3},
      True,
      '0 of 6 validation targets (0.0%) and 3 of 6 test targets (50.0%)',
    ),
    ({'validation': 0, 'test': 0}, True, None),
    ({'validation': 6, 'test': 6}, False, None),
    (None, True, None),  # prepared by an earlier version
  ],
)
def test_the_warning_gives_shares_and_the_field(tmp_path, caplog, counts, exclude_seen, message):
  config = config_lib.defaults(source='synthetic', name='x')
  config.eval.exclude_seen = exclude_seen
  folder = epath.Path(tmp_path / 'interactions')
  folder.mkdir()
  statistics = {'users': 6} | ({} if counts is None else {unreachable.NAME: counts})
  (folder / 'statistics.json').write_text(json.dumps(statistics))
  with caplog.at_level(logging.WARNING):
    unreachable.warn(config_lib.from_config_dict(config), Prepared(tmp_path))
  assert (
    (message in caplog.text and 'eval.exclude_seen=False' in caplog.text)
    if message
    else (not caplog.text)
  )
