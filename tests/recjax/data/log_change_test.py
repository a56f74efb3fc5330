"""Changes between two logs, counted by hand."""

import dataclasses

import numpy as np

from recjax.data import log_change

DAY = 86400.0


def log(items, users, days):
  return log_change.Summary(items, users, np.array(days) * DAY, len(days))


OLD = log(list('abcde'), ['u', 'v'], [0, 1, 2, 3, 10])


def test_counts_and_rates():
  new = log(list('abcdxy'), ['u', 'w'], [0, 1, 2, 3, 10, 11, 11, 12])
  change = log_change.compare(OLD, new)
  assert change == {
    'interactions': [5, 8],
    'users': [2, 2],
    'items': [5, 6],
    'new_items': 2,
    'removed_items': 1,
    'new_users': 1,
    'removed_users': 1,
    'newest': ['1970-01-11T00:00:00', '1970-01-13T00:00:00'],
    'new_interactions': 3,
    'events_per_day': [0.5, 1.5],  # 5 in 10 days, 3 in 2 days
  }
  assert log_change.reasons(OLD, change, 0.2) == []
  [reason] = log_change.reasons(OLD, change, 0.1)
  assert reason == 'the new log lacks 1 of the 5 old items, more than 10%'


def test_dates_that_go_back_and_logs_without_news():
  earlier = log_change.compare(OLD, log(list('abcde'), ['u'], [0, 9]))
  assert log_change.reasons(OLD, earlier, 0.2) == [
    'dates go back: the newest interaction is of 1970-01-10T00:00:00, that of the old log of 1970-01-11T00:00:00'
  ]
  [reason] = log_change.reasons(OLD, log_change.compare(OLD, OLD), 0.2)
  assert reason.startswith('nothing is new: no interaction is later than 1970-01-11T00:00:00')
  order_only = dataclasses.replace(OLD, times=None)
  change = log_change.compare(order_only, OLD)
  assert 'newest' not in change and log_change.reasons(order_only, change, 0.2) == []
