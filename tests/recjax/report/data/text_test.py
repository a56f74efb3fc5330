"""The description of a small log as text."""

import dataclasses

import pytest

from recjax.report.data import text
from recjax.report.data.facts import facts
from tests.recjax.report.data import logs

SMALL = [
  *(('ann', item, day * 86_400, 'buy', 5.0) for day, item in enumerate('abca')),
  *(('bob', item, day * 86_400 + 60, 'view', 2.0) for day, item in enumerate('cabd')),
  ('bob', 'd', 3 * 86_400 + 60, 'view', 2.0),  # equal to the row before
]

WHOLE = """\
toy: source table, split leave_one_out, FOLDER

kept              8 interactions of 2 users with 4 items
left out          1 interaction: equal to another row in user, item and time (data.duplicates)
dates (UTC)       1970-01-01 00:00 to 1970-01-04 00:01, 3 days
events            buy: 4 (50.0 %), target
                  view: 4 (50.0 %), target
ratings           8 (100.0 %), mean 3.50, from 2 to 5
density           87.500 % of all pairs of user and item; 12.5 % of the interactions repeat an
                    earlier pair
popularity        the top 1 % of the items have 37.5 % of the interactions, the top 10 % 37.5 %; 1
                    item with one interaction
                  most: item a (title of a) with 37.50 %
                  most: user ann with 50.00 %
items             0 without a row in the table, 0 without a title, 0 without any text, 0 without an
                    interaction
sessions          8 with pauses of 30 min between them, of 1.0 interactions; 0.0 % of the time gaps
                    are zero
columns not read  interactions: channel, device

quantile          min  10 %  25 %  median  75 %  90 %  99 %  max
interactions        4     4     4       4     4     4     4    4
time gap          1 d   1 d   1 d     1 d   1 d   1 d   1 d  1 d

split             rows  users  items  history                                 dates
training             4      2      3           1970-01-01 00:00 to 1970-01-02 00:01
validation           2      2      2        2  1970-01-03 00:00 to 1970-01-03 00:01
test                 2      2      2        3  1970-01-04 00:00 to 1970-01-04 00:01

share of targets                      validation    test
in their own history                       0.0 %  50.0 %
never in training                          0.0 %  50.0 %
followed the newest item in training      50.0 %  50.0 %
followed any item of the history          50.0 %  50.0 %

interactions          users
3 to 4                    2 ████████████████████████████████████████

Look at this:
  - A warning."""


@pytest.fixture
def small(tmp_path):
  log, data = logs.prepared(tmp_path, SMALL, 'leave_one_out')
  columns = {'interactions': ['channel', 'device']}
  return facts(log, data) | {'folder': 'FOLDER', 'ignored_columns': columns}


def test_the_whole_text(small):
  assert text.long_text(small, ['A warning.']) == WHOLE


def test_the_short_text(small):
  assert text.short_text(small) == [
    'data: 8 interactions of 2 users with 4 items (1 left out); 1970-01-01 00:00 to 1970-01-04 00:01; buy 50 %, '
    'view 50 %',
    'data: 4 interactions a user (10 % to 90 %: 4 to 4); training 4 interactions, validation 2 rows, test 2 rows',
    'data: targets in their own history: validation 0.0 %, test 50.0 %; never in training: validation 0.0 %, test '
    '50.0 %',
  ]


def test_lines_have_at_most_a_hundred_columns_whatever_the_names(tmp_path):
  log, data = logs.prepared(
    tmp_path,
    [(f'user {n} ' * 9, f'{item} ' * 40, n, f'event {n % 3} ' * 12, 1.0) for n in range(60) for item in 'abc'],
    'leave_one_out',
  )  # fmt: skip
  data.name = 'shop'
  found = facts(log, data)
  lines = text.long_text(found | {'folder': 'F'}, ['word ' * 60]).splitlines()
  assert max(map(len, lines)) <= text.WIDTH


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [(0, '0 s'), (30, '30 s'), (90, '1.5 min'), (3600, '1 h'), (100 * 86_400, '100 d'), (86_400 * 731, '2.0 y')],
)  # fmt: skip
def test_durations_have_their_largest_unit(seconds, expected):
  assert text.duration(seconds) == expected


def test_a_log_without_dates_and_events_has_no_such_lines(tiny_world):
  config, dataset = tiny_world
  found = facts(dataset, dataclasses.replace(config.data)) | {'dates': None, 'gaps': None}
  whole = text.long_text(found, [])
  assert 'none: times only give the order' in whole
  assert 'events' not in whole and 'time gap' not in whole and 'Look at this' not in whole


def test_the_most_frequent_of_many_kinds_of_interactions_are_shown(small):
  kinds = {f'k{n}': {'interactions': n, 'share': n / 78, 'is_target': True} for n in range(1, 13)}
  whole = text.long_text(small | {'events': kinds}, [])
  assert 'events            k12: 12 (15.4 %), target\n' in whole
  assert 'k3: 3' in whole and 'k2: 2' not in whole and 'and 2 more' in whole
  assert text.short_text(small | {'events': kinds})[0].endswith('k12 15 %, k11 14 %, k10 13 %')
