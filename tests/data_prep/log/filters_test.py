"""Events as targets and context, and items without a record, against plain Python."""

import dataclasses

import numpy as np
import pytest

from data_prep.log import interactions, splits, unreachable
from data_prep.log.filters import Filters
from data_prep.log.raw_log import RawLog

KINDS = ('buy', 'cart', 'refund', 'view')
BUYS = Filters(events=('buy',), context_events=('view', 'cart'))


def log(seed, rows=600, users=9, items=7):
  """Many rows share a time, also those of one user."""
  rng = np.random.default_rng(seed)
  columns = {
    'users': np.array([f'u{n}' for n in rng.integers(0, users, rows)]),
    'items': np.array([f'i{n}' for n in rng.integers(0, items, rows)]),
    'times': rng.integers(0, 150, rows),
    'events': np.array(KINDS)[rng.integers(0, len(KINDS), rows)],
    'ratings': np.where(rng.random(rows) < 0.3, rng.integers(1, 6, rows), np.nan),
  }
  records = {f'i{n}': {} for n in range(items - 1)}
  return RawLog(**columns, item_records=records, catalogue_file='items.csv')


def sequences(raw, k, filters):
  """user → [(time, is context, row, item, event)], by the rules of the docs, one row at a time."""
  targets = filters.events or set(KINDS) - set(filters.context_events)
  rows = []
  for n in range(len(raw.users)):
    event = str(raw.events[n])
    is_unknown = filters.unknown_items == 'drop' and str(raw.items[n]) not in raw.item_records
    if not is_unknown and (event in targets or event in filters.context_events):
      row = (int(raw.times[n]), event not in targets, n, str(raw.items[n]), event)
      rows.append((str(raw.users[n]), row))
  rows.sort(key=lambda pair: pair[1])
  seen, kept = set(), []
  for user, row in rows:
    if (user, row[3], row[0]) not in seen:
      seen.add((user, row[3], row[0]))
      kept.append((user, row))
  core = [(user, row) for user, row in kept if not row[1]]
  while True:
    count = {}
    for user, row in core:
      for name in ((0, user), (1, row[3])):
        count[name] = count.get(name, 0) + 1
    smaller = [(u, row) for u, row in core if min(count[0, u], count[1, row[3]]) >= k]
    if len(smaller) == len(core):
      break
    core = smaller
  if k:
    left = {(0, user) for user, _ in core} | {(1, row[3]) for _, row in core}
    kept = [(u, row) for u, row in kept if row in {r for _, r in core} or (
      row[1] and (0, u) in left and (1, row[3]) in left)]  # fmt: skip
  found = {}
  for user, row in kept:
    found.setdefault(user, []).append(row)
  return found


FILTERS = [
  BUYS,
  Filters(events=('buy', 'cart')),
  Filters(context_events=('view',)),
  Filters(events=('buy',), context_events=('view',), unknown_items='drop'),
]


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('k', [0, 8])
@pytest.mark.parametrize('filters', FILTERS)
def test_the_clean_log_equals_plain_python(filters, k):
  raw = log(1)
  cleaned = interactions.clean(raw, k, 'drop', filters=filters)
  expected = sequences(raw, k, filters)
  assert cleaned.user_ids == sorted(expected)
  for u, user in enumerate(cleaned.user_ids):
    part = slice(cleaned.offsets[u], cleaned.offsets[u + 1])
    assert cleaned.rows[part].tolist() == [row[2] for row in expected[user]]
    assert [cleaned.item_ids[i] for i in cleaned.items[part]] == [r[3] for r in expected[user]]
    assert [cleaned.event_names[e] for e in cleaned.events[part]] == [r[4] for r in expected[user]]
    if filters.context_events:
      assert (~cleaned.is_target[part]).tolist() == [row[1] for row in expected[user]]
  assert (cleaned.is_target is None) == (not filters.context_events)
  used = {*(filters.events or KINDS), *filters.context_events}
  others = {kind: int((raw.events == kind).sum()) for kind in sorted(set(KINDS) - used)}
  assert cleaned.dropped.get('other_events_dropped', {}) == others


def arrays_and_rows(kind, seed, max_history=0, k=3):
  """The arrays of a split, and the same as [(user, history, target)] with rows of the raw log."""
  raw = log(seed)
  cleaned = interactions.clean(raw, k, 'drop', filters=BUYS)
  # The times are replaced by the rows, so that every interaction is recognised.
  numbered = dataclasses.replace(cleaned, ratings=cleaned.rows.astype(np.float32))
  arrays = splits.split(numbered, kind, (0.6, 0.2, 0.2), max_history)
  found = {}
  for part in ('validation', 'test'):
    offsets = arrays[f'{part}_history_offsets']
    history = arrays[f'{part}_history_ratings'].astype(int).tolist()
    found[part] = [
      (cleaned.user_ids[user], history[offsets[n] : offsets[n + 1]], int(target))
      for n, (user, target) in enumerate(
        zip(arrays[f'{part}_users'], arrays[f'{part}_ratings'], strict=True)
      )
    ]
  offsets, train = arrays['train_offsets'], arrays['train_ratings'].astype(int).tolist()
  found['train'] = {
    user: train[offsets[u] : offsets[u + 1]] for u, user in enumerate(cleaned.user_ids)
  }
  return raw, arrays, found


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('max_history', [0, 5])
def test_leave_one_out_holds_out_the_last_two_targets(max_history):
  raw, arrays, found = arrays_and_rows('leave_one_out', 2, max_history)
  for u, (user, rows) in enumerate(sorted(sequences(raw, 3, BUYS).items())):
    targets = [n for n, row in enumerate(rows) if not row[1]]
    number = [row[2] for row in rows]
    for part, at in (('validation', targets[-2]), ('test', targets[-1])):
      history = number[:at][-max_history:] if max_history else number[:at]
      assert found[part][u] == (user, history, number[at])
    assert found['train'][user] == number[: targets[-2]]
  assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.usefixtures('sizes')
@pytest.mark.parametrize('max_history', [0, 5])
def test_global_time_splits_the_targets_at_two_moments(max_history):
  raw, _, found = arrays_and_rows('global_time', 3, max_history)
  by_user = sequences(raw, 3, BUYS)
  pairs = []  # (time, is context, row), user, history, target
  for user, rows in by_user.items():
    number = [row[2] for row in rows]
    for at, row in enumerate(rows):
      if at and not row[1]:
        history = number[:at][-max_history:] if max_history else number[:at]
        pairs.append((row[:3], (user, history, number[at])))
  pairs.sort()
  cuts = int(0.6 * len(pairs) + 1e-6), int(0.8 * len(pairs) + 1e-6)
  assert sorted(found['validation']) == sorted(pair for _, pair in pairs[cuts[0] : cuts[1]])
  assert sorted(found['test']) == sorted(pair for _, pair in pairs[cuts[1] :])
  first = pairs[cuts[0]][0]
  for user, rows in by_user.items():
    assert found['train'][user] == [row[2] for row in rows if row[:3] < first]


@pytest.mark.parametrize('kind', ['leave_one_out', 'global_time'])
def test_no_context_of_the_time_of_a_target_is_in_its_history(kind):
  raw, arrays, found = arrays_and_rows(kind, 4)
  num_equal = 0
  for _, history, target in found['validation'] + found['test']:
    assert raw.events[target] == 'buy'
    for row in history:
      assert raw.times[row] <= raw.times[target]
      assert raw.times[row] < raw.times[target] or raw.events[row] == 'buy'
    num_equal += int((raw.times == raw.times[target]).sum() > 1)
  assert num_equal > 5
  held_out = {target for part in ('validation', 'test') for _, _, target in found[part]}
  assert not held_out & {row for rows in found['train'].values() for row in rows}
  # A view of an item does not make its purchase unreachable; an earlier purchase does.
  target_events = np.array([True, False, False])
  expected = {
    part: sum(
      any(raw.items[row] == raw.items[target] and raw.events[row] == 'buy' for row in history)
      for _, history, target in found[part]
    )
    for part in ('validation', 'test')
  }
  assert unreachable.count(arrays, target_events) == expected
  all_seen = unreachable.count(arrays)
  assert sum(all_seen.values()) >= sum(expected.values()) > 0


def test_without_filters_nothing_changes():
  raw = log(5)
  plain = interactions.clean(raw, 3, 'drop')
  kept = interactions.clean(raw, 3, 'drop', filters=Filters(events=KINDS))
  for field in dataclasses.fields(plain):
    if field.compare:
      np.testing.assert_equal(getattr(plain, field.name), getattr(kept, field.name))
  assert plain.dropped == {}


@pytest.mark.parametrize(
  ('filters', 'message'),
  [
    (
      Filters(events=('purchase',)),
      r"data\.events must name events of the log, which are '\w+' \(",
    ),
    (Filters(events=('BUY',)), r"got 'BUY'. Did you mean 'buy'\? Set --config\.data\.events$"),
    (Filters(('buy',), ('views',)), r'data\.context_events must name .*Did you mean .view.'),
    (Filters(context_events=KINDS), 'must leave an event that may be a target'),
  ],
)
def test_events_that_leave_nothing_name_the_events_of_the_log(filters, message):
  raw = log(6)
  with pytest.raises(ValueError, match=message) as error:
    interactions.clean(raw, 0, 'drop', filters=filters)
  assert '\n' not in str(error.value)
  assert all(f'{kind!r} ({(raw.events == kind).sum()})' in str(error.value) for kind in KINDS)


def test_a_log_without_events_cannot_be_filtered_by_them():
  raw = dataclasses.replace(log(6), events=None)
  with pytest.raises(ValueError, match=r'needs a log with the kind .*--config\.data\.event_column'):
    interactions.clean(raw, 0, 'drop', filters=BUYS)


@pytest.mark.usefixtures('sizes')
def test_unknown_items_are_refused_with_their_row_dropped_or_kept():
  raw = dataclasses.replace(log(7), place=lambda row: f'f.csv:{row + 2}')
  whole = dataclasses.replace(raw, is_catalogue_whole=True)
  unknown = np.flatnonzero(raw.items == 'i6')
  message = rf"^f\.csv:{unknown[0] + 2}: .* items\.csv; got 'i6'. {len(unknown)} .* have 1 such"
  for refused, mode in ((whole, 'auto'), (raw, 'refuse')):
    with pytest.raises(ValueError, match=message):
      interactions.clean(refused, 0, 'drop', filters=Filters(unknown_items=mode))
  dropped = interactions.clean(raw, 0, 'drop', filters=Filters(unknown_items='drop'))
  assert dropped.item_ids == [f'i{n}' for n in range(6)]
  assert dropped.dropped == {
    'unknown_items_dropped': 1,
    'unknown_item_interactions_dropped': len(unknown),
  }
  for kept, mode in ((raw, 'auto'), (whole, 'keep')):
    cleaned = interactions.clean(kept, 0, 'drop', filters=Filters(unknown_items=mode))
    assert cleaned.item_ids == [f'i{n}' for n in range(7)]
  # Of the rows that an events filter leaves out, none is refused.
  views = np.where(raw.items == 'i6', 'view', raw.events)
  only = dataclasses.replace(whole, events=views)
  interactions.clean(only, 0, 'drop', filters=Filters(events=('buy', 'cart', 'refund')))


@pytest.mark.parametrize('mode', ['auto', 'refuse', 'drop', 'keep'])
def test_an_item_table_without_any_item_of_the_log_is_refused(mode):
  raw = dataclasses.replace(log(8), item_records={'I1': {}})
  with pytest.raises(
    ValueError, match=r"must share items; none of the 7 items .* such as 'I1'.*Set"
  ):
    interactions.clean(raw, 0, 'drop', filters=Filters(unknown_items=mode))


@pytest.mark.parametrize('kind', ['user', 'item'])
def test_a_log_of_one_user_or_one_item_is_refused(kind):
  raw = log(9)
  one = dataclasses.replace(raw, **{f'{kind}s': np.full(len(raw.users), f'{kind[0]}1')})
  with pytest.raises(ValueError, match=rf'at least two {kind}s; all .* of {kind} .*{kind}_column'):
    interactions.clean(one, 0, 'drop')


@pytest.mark.usefixtures('sizes')
def test_rows_of_equal_key_are_named_by_their_lines():
  raw = dataclasses.replace(log(10), place=lambda row: f'f.csv:{row + 2}')
  with pytest.raises(ValueError, match=r'^f\.csv:\d+: .*repeats f\.csv:\d+.*rows repeat') as error:
    interactions.clean(raw, 0, filters=BUYS)
  lines = [int(word.split(':')[1]) - 2 for word in str(error.value).split() if 'f.csv:' in word]
  keys = {(str(raw.users[n]), str(raw.items[n]), int(raw.times[n])) for n in lines}
  assert len(keys) == 1
  cleaned = interactions.clean(raw, 0, 'drop', filters=BUYS)
  targets = {
    row for row, is_target in zip(cleaned.rows, cleaned.is_target, strict=True) if is_target
  }
  buys = {(raw.users[n], raw.items[n], raw.times[n]) for n in np.flatnonzero(raw.events == 'buy')}
  assert {(raw.users[n], raw.items[n], raw.times[n]) for n in targets} == buys
