"""The leakage test: tampered folders fail with one message, legal repeats pass."""

import json
import shutil

from etils import epath
import numpy as np
import pytest

from data_prep.log import interactions, log_writer, raw_log, splits
from data_prep.log.filters import Filters
from recjax.data.dataset import Log
from recjax.data.sequences import offsets_of
from recjax.metrics import leakage


@pytest.fixture(autouse=True)
def _blocks_of_a_few_users(monkeypatch):
  monkeypatch.setattr(leakage, 'BLOCK_ITEMS', 25)


def written(folder, kind, context=False):
  """A log of four items, which users have again and again, also within equal times."""
  rng = np.random.default_rng(0)
  users, items, times, events = [], [], [], []
  for u in range(30):
    at = np.sort(rng.integers(0, 12, 9))
    for n in range(9):
      # One item is never twice at one time, but often at several.
      users, items, times = [*users, f'u{u:02}'], [*items, f'i{(n + u) % 4}'], [*times, at[n]]
      events.append('view' if n % 3 == 2 else 'buy')
  log = raw_log.RawLog(
    np.array(users), np.array(items), np.array(times), {}, events=np.array(events)
  )
  if kind == 'source':
    whole = {f'u{u:02}': items[9 * u : 9 * u + 9] for u in range(30)}
    keep = np.tile(np.arange(9) < 6, 30)
    held_out = {
      split: raw_log.HeldOutRows(
        np.array(list(whole)),
        [row[max(0, n - 7) : n] for row in whole.values()],
        np.array([row[n] for row in whole.values()]),
      )
      for split, n in (('validation', 6), ('test', 8))
    }
    log = raw_log.RawLog(
      log.users[keep], log.items[keep], np.arange(180), {}, ticks_per_second=0, held_out=held_out
    )
  filters = Filters(context_events=('view',)) if context else None
  cleaned = interactions.clean(log, 0, duplicates='drop', filters=filters)
  stage = epath.Path(folder) / 'interactions'
  stage.mkdir()
  log_writer.write(cleaned, splits.split(cleaned, kind, (0.8, 0.1, 0.1), 0), {}, stage)
  return stage


def change(stage, **arrays):
  for name, values in arrays.items():
    np.save(stage / f'{name}.npy', values)


def load(stage, name):
  return np.load(stage / f'{name}.npy')


def insert(stage, user, column_values):
  """Appends an interaction to the training part of a user."""
  offsets = load(stage, 'train_offsets')
  for name, value in column_values.items():
    values = load(stage, f'train_{name}')
    change(stage, **{f'train_{name}': np.insert(values, offsets[user + 1], value)})
  lengths = np.diff(offsets)
  lengths[user] += 1
  change(stage, train_offsets=offsets_of(lengths))


@pytest.mark.parametrize(
  ('kind', 'context'),
  [
    ('leave_one_out', 0),
    ('leave_one_out', 1),
    ('global_time', 0),
    ('global_time', 1),
    ('source', 0),
  ],
)
def test_repeats_and_equal_times_are_no_leak(tmp_path, kind, context):
  log = Log.load(written(tmp_path, kind, bool(context)).parent)
  found = leakage.check(log, kind)
  rules = ['files', 'order'] if kind == 'source' else ['files', 'training', 'histories']
  assert list(found['rules']) == rules
  assert found['rows'] == {split: log.num_rows(split) for split in ('validation', 'test')}
  histories, targets = log.histories_and_targets('test')
  assert any(target in histories[u] for u, target in enumerate(targets))


def tampered(stage, case):
  """Puts a held-out interaction where it must not be; returns the kind of split."""
  users = load(stage, 'test_users') if (stage / 'test_users.npy').exists() else np.arange(30)
  rows = {
    name: load(stage, f'test_{name}')
    for name in ('items', 'times')
    if (stage / f'test_{name}.npy').exists()
  }
  events = {'events': 0} if (stage / 'train_events.npy').exists() else {}
  if case == 'trained':
    insert(stage, users[3], {name: rows[name][3] for name in rows} | events)
  elif case == 'later':
    times = load(stage, 'train_times')
    times[load(stage, 'train_offsets')[users[3] + 1] - 1] = 99
    change(stage, train_times=times)
  elif case == 'same':
    rows['items'][3], rows['times'][3] = (
      load(stage, 'validation_items')[3],
      load(stage, 'validation_times')[3],
    )
    change(stage, test_items=rows['items'], test_times=rows['times'])
  elif case == 'swapped':
    times = load(stage, 'validation_times')
    times[3] = rows['times'][3] + 1
    change(stage, validation_times=times)
  elif case in ('history', 'itself'):
    last = load(stage, 'test_history_offsets')[4] - 1
    items, times = load(stage, 'test_history_items'), load(stage, 'test_history_times')
    times[last] = rows['times'][3] + (case == 'history')
    items[last] = rows['items'][3]
    change(stage, test_history_items=items, test_history_times=times)
  elif case == 'border':
    insert(stage, users[0], {'items': 0, 'times': load(stage, 'validation_times').min()} | events)
    items = load(stage, 'validation_items')
    row = int(load(stage, 'validation_times').argmin())
    items[row], owners = 0, load(stage, 'validation_users')
    owners[row] = users[0]
    change(stage, validation_items=items, validation_users=owners)
  else:
    change(stage, train_times=load(stage, 'train_times')[1:])


@pytest.mark.parametrize(
  ('kind', 'context', 'case', 'message'),
  [
    ('leave_one_out', 0, 'trained', r"test target of row 3 \(user 'u03', item 'i.'\) must not be in the training part"),
    ('leave_one_out', 1, 'trained', 'test target of row 3 .* must not be in the training part'),
    ('leave_one_out', 0, 'later', 'validation target of row 3 .* later than the training part of its user'),
    ('leave_one_out', 0, 'same', 'test target of row 3 .* must not be in its own history'),
    ('leave_one_out', 0, 'swapped', 'test target of row 3 .* must not be before an item of its history'),
    ('leave_one_out', 1, 'history', 'test target of row 3 .* must not be before an item of its history'),
    ('leave_one_out', 0, 'short', r'train_times\.npy must have \d+ values; got'),
    ('global_time', 0, 'trained', 'must not be before the end of the training part'),
    ('global_time', 0, 'later', 'must not be before the end of the training part'),
    ('global_time', 1, 'border', 'validation target of .* must not be in the training part'),
    ('global_time', 0, 'history', 'test target of row 3 .* must not be before an item of its history'),
    ('global_time', 1, 'itself', 'test target of row 3 .* must not be in its own history'),
  ],
)  # fmt: skip
def test_a_tampered_log_is_refused(tmp_path, kind, context, case, message):
  stage = written(tmp_path, kind, bool(context))
  tampered(stage, case)
  with pytest.raises(ValueError, match=f'^leakage test: .*{message}') as error:
    leakage.check(Log.load(tmp_path), kind)
  assert '\n' not in str(error.value)
  assert f'remove {stage} and run --mode=prepare' in str(error.value)


def test_rows_without_times_are_compared_by_their_order(tmp_path):
  stage = written(tmp_path, 'source')
  insert(stage, 3, {'items': load(stage, 'validation_items')[3], 'times': 0})
  with pytest.raises(ValueError, match=r'validation target of row 3 .* then the target \(1 such'):
    leakage.check(Log.load(tmp_path), 'source')


def test_an_array_that_the_preparation_did_not_write_is_refused(tiny_world, tmp_path):
  folder = shutil.copytree(tiny_world[1].folder, tmp_path / 'prepared')
  assert 'histories' in leakage.check(Log.load(folder), 'leave_one_out')['rules']
  path = epath.Path(folder) / 'interactions/train_items.npy'
  items = np.load(path)
  items[0] = load(path.parent, 'test_items')[0]  # the times stay: it looks like a repeat
  np.save(path, items)
  with pytest.raises(ValueError, match=r'train_items\.npy must be the file that the preparation'):
    leakage.check(Log.load(folder), 'leave_one_out')
  assert json.loads((path.parent / 'manifest.json').read_text())['files']
