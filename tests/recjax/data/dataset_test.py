"""Held-out rows and facts of a data set, compared with the log that it was written from."""

import json
import pathlib
import shutil

from etils import epath
import numpy as np
import pytest

from data_prep.log import interactions, log_writer, raw_log, splits
from data_prep.log.filters import Filters
from recjax.data.dataset import COLUMNS, SPLITS, Dataset
from recjax.data.sequences import Sequences


def make(folder, kind, with_notes=True, max_history=0, filters=None, k=0):
  """Returns a data set without semantic IDs, and its clean log."""
  rng = np.random.default_rng(0)
  log = raw_log.RawLog(
    np.repeat([f'u{n:02}' for n in range(30)], 6),
    np.array([f'i{n:02}' for n in rng.integers(0, 20, 180)]),
    rng.permutation(180),
    {},
    rng.integers(1, 6, 180).astype(np.float32) if with_notes else None,
    np.array(['buy', 'view'])[rng.integers(0, 2, 180)] if with_notes else None,
  )
  if kind == 'source':
    rows = raw_log.HeldOutRows(
      np.array(['u00', 'new']), [['i01', 'i02', 'i03'], ['i04']], np.array(['i05', 'i06'])
    )
    held_out = {'validation': rows, 'test': rows}
    log = raw_log.RawLog(log.users, log.items, log.times, {}, log.ratings, log.events, held_out)
  cleaned = interactions.clean(log, k, filters=filters)
  arrays = splits.split(cleaned, kind, (0.8, 0.1, 0.1), max_history)
  stage = epath.Path(folder) / 'interactions'
  stage.mkdir()
  log_writer.write(cleaned, arrays, {}, stage)
  dataset = Dataset(
    folder=epath.Path(folder),
    train=Sequences(arrays['train_items'], arrays['train_offsets']),
    validation_items=arrays['validation_items'],
    test_items=arrays['test_items'],
    sids=None,
  )
  return dataset, cleaned


def test_leave_one_out_rows_have_the_documented_histories_and_columns(tmp_path):
  dataset, log = make(tmp_path, 'leave_one_out')
  assert dataset.is_leave_one_out
  columns = {'times': log.times, 'ratings': log.ratings, 'events': log.events}
  for place, split in enumerate(SPLITS):
    histories, targets = dataset.histories_and_targets(split)
    assert len(histories) == dataset.num_rows(split) == 30
    assert dataset.countable_sequences(split).values.tolist() == histories.values.tolist()
    for u in range(30):
      rows = slice(log.offsets[u], log.offsets[u + 1])
      end = 4 + place
      assert histories[u].tolist() == log.items[rows][:end].tolist()
      assert targets[u] == log.items[rows][end]
      for name, column in columns.items():
        flat = dataset.history_column(split, name)
        assert flat.dtype == column.dtype
        found = flat[histories.offsets[u] : histories.offsets[u + 1]]
        assert found.tolist() == column[rows][:end].tolist()
  assert dataset.train_ratings.tolist() == dataset.history_column('validation', 'ratings').tolist()
  assert dataset.train_times.tolist() == dataset.history_column('validation', 'times').tolist()
  assert dataset.train_events.tolist() == dataset.history_column('validation', 'events').tolist()
  assert dataset.event_names == ['buy', 'view']


@pytest.mark.parametrize('kind', ['leave_one_out', 'global_time'])
def test_context_is_in_histories_and_is_neither_seen_nor_counted(tmp_path, kind):
  dataset, log = make(tmp_path, kind, filters=Filters(context_events=('view',)), k=3)
  assert dataset.target_events.tolist() == [True, False]
  assert not dataset.is_leave_one_out
  bought = dataset.train_events == 0
  assert dataset.train_is_target.tolist() == bought.tolist()
  users = np.repeat(np.arange(len(log.user_ids)), np.diff(log.offsets))
  row_of = {time: row for row, time in enumerate(log.times.tolist())}  # no time is twice
  counted = dataset.countable_sequences('test')
  assert counted.values.tolist() == dataset.train.values[bought].tolist()
  for split in SPLITS:
    (histories, targets), seen = dataset.histories_and_targets(split), dataset.seen(split)
    times = dataset.history_column(split, 'times')
    for n, target in enumerate(targets):
      rows = [row_of[time] for time in times[slice(*histories.offsets[n : n + 2])].tolist()]
      at = rows[-1] + 1
      assert rows == [row for row in range(at) if users[row] == users[at]]
      assert log.items[at] == target and log.events[at] == 0
      assert seen[n].tolist() == [log.items[row] for row in rows if log.events[row] == 0]
  assert dataset.statistics['context_interactions'] == int((log.events == 1).sum())
  assert dataset.statistics['events'] == {
    'buy': int((log.events == 0).sum()),
    'view': int((log.events == 1).sum()),
  }


@pytest.mark.parametrize('max_history', [0, 2])
def test_global_time_rows_have_the_items_before_the_target(tmp_path, max_history):
  dataset, log = make(tmp_path, 'global_time', max_history=max_history)
  assert not dataset.is_leave_one_out
  assert [dataset.num_rows(split) for split in SPLITS] == [15, 15]
  ratings = dict(zip(log.times.tolist(), log.ratings.tolist(), strict=True))  # no time is twice
  places = dict(zip(log.times.tolist(), range(180), strict=True))
  for split in SPLITS:
    histories, targets = dataset.histories_and_targets(split)
    assert dataset.countable_sequences(split) is dataset.train
    times = np.load(tmp_path / 'interactions' / f'{split}_times.npy')  # of the targets
    for n, time in enumerate(times.tolist()):
      at = places[time]
      first = log.offsets[np.searchsorted(log.offsets, at, side='right') - 1]
      start = max(first, at - max_history) if max_history else first
      assert targets[n] == log.items[at]
      assert histories[n].tolist() == log.items[start:at].tolist()
      flat = slice(*histories.offsets[n : n + 2])
      shown = [ratings[t] for t in dataset.history_column(split, 'times')[flat].tolist()]
      assert dataset.history_column(split, 'ratings')[flat].tolist() == shown


def test_splits_of_a_source_have_items_but_no_other_column(tmp_path):
  dataset, log = make(tmp_path, 'source')
  assert log.user_ids[-1] == 'u29'
  assert log.user_ids[0] == 'new'
  assert dataset.train.lengths.tolist() == [0, *[6] * 30]
  histories, targets = dataset.histories_and_targets('test')
  assert [[log.item_ids[i] for i in row] for row in histories] == [['i01', 'i02', 'i03'], ['i04']]
  assert [log.item_ids[i] for i in targets] == ['i05', 'i06']
  for name in COLUMNS:
    assert dataset.history_column('test', name) is None
  assert dataset.train_ratings.shape == dataset.train.values.shape


def test_columns_that_a_log_lacks_are_none(tmp_path):
  dataset, _ = make(tmp_path, 'leave_one_out', with_notes=False)
  assert dataset.train_ratings is None
  assert dataset.train_events is None
  assert dataset.event_names == []
  assert dataset.history_column('test', 'ratings') is None


def test_unknown_splits_and_columns_are_refused(tmp_path):
  dataset, _ = make(tmp_path, 'leave_one_out')
  with pytest.raises(ValueError, match="split must be one of validation, test; got 'train'"):
    dataset.histories_and_targets('train')
  with pytest.raises(
    ValueError, match="column must be one of times, ratings, events; got 'rating'"
  ):
    dataset.history_column('test', 'rating')


def test_records_are_read_at_load_and_a_changed_stage_is_refused(tiny_world, tmp_path):
  folder = shutil.copytree(tiny_world[1].folder, tmp_path / 'prepared')
  dataset, again = Dataset.load(folder), Dataset.load(folder)
  read = ('statistics', 'sid_description', 'sid_quality', 'optimum')
  files = (
    'interactions/statistics.json',
    'sids/sids.json',
    'sids/quality.json',
    'optimum/optimum.json',
  )
  expected = {
    name: json.loads((folder / file).read_text()) for name, file in zip(read, files, strict=True)
  }
  digest = dataset.files_digest('texts')
  for file in (*files, *(f'{stage}/manifest.json' for stage in ('interactions', 'texts'))):
    path = pathlib.Path(folder / file)
    path.write_text(json.dumps(json.loads(path.read_text()) | {'later': 1}))
  assert {name: getattr(dataset, name) for name in read} == expected
  assert dataset.files_digest('texts') == digest
  for name in ('items', 'titles', 'train_ratings'):
    with pytest.raises(ValueError, match=r'(interactions|texts) must not change while it is used'):
      getattr(again, name)
