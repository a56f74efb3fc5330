"""Files of predictions: what is written is read, in bounded memory; damaged and foreign files have one message."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.metrics.ranked import Ranked
from recjax.metrics.slices import Labels
from recjax.runtime import distributed
from recjax.workdir import predictions

RECORD = {
  'data': {'folder': 'd', 'interactions': 'a', 'sids': 'b', 'item_text': 'original'},
  'protocol': {'split': 'leave_one_out', 'exclude_seen': True},
  'step': 7,
}


def write(workdir, rated, ranked, rows, name='retrieval', **columns):
  record = predictions.record('test', name, len(rows), **RECORD)
  ids = predictions.Ids(rated[1])
  columns = predictions.of_ranked(ranked) | columns
  predictions.write(workdir, record, predictions.groups(ids, 'test', rows, columns))


@pytest.fixture(scope='module')
def ranked(rated):
  dataset = rated[1]
  rng = np.random.default_rng(0)
  targets = np.asarray(dataset.targets('test'))
  lists = np.stack([rng.permutation(dataset.num_items)[:6] for _ in targets]).astype(np.int32)
  lists[::3, 4:] = -1
  scores = -np.sort(rng.random(lists.shape)).astype(np.float32)
  return Ranked.of(lists, scores, targets, 20, 1.0)


def test_a_file_holds_raw_ids_scores_and_ranks(rated, ranked, tmp_path, monkeypatch):
  dataset, rows = rated[1], np.arange(0, 40, 2)
  monkeypatch.setattr(predictions, 'GROUP_ROWS', 7)
  write(tmp_path, rated, ranked.take(rows), rows)
  file = predictions.Predictions(tmp_path, 'test', 'retrieval')
  assert file.path == tmp_path / 'predictions/test/retrieval.parquet'
  assert file.record == {
    'version': 1, 'split': 'test', 'name': 'retrieval', 'rows': 20, 'step': 7, 'protocol': RECORD['protocol'],
    'data': {'interactions': 'a', 'sids': 'b', 'item_text': 'original'},
  }  # fmt: skip
  users = json.loads((dataset.folder / 'interactions/users.json').read_text())
  ids = [item['id'] for item in dataset.items]
  targets = dataset.targets('test')
  found = file.read().to_pylist()
  assert [line['row'] for line in found] == rows.tolist()
  for line, row in zip(found, rows.tolist(), strict=True):
    items = [ids[i] for i in ranked.items_UK[row] if i >= 0]
    assert (line['user'], line['target']) == (users[row], ids[targets[row]])
    assert line['items'] == items
    assert line['scores'] == ranked.scores_UK[row, : len(items)].tolist()
    assert line['rank'] == (items.index(line['target']) if line['target'] in items else None)
  assert file.lines([19, 0, 7, 6]) == [found[n] for n in (19, 0, 7, 6)]
  parquet = pq.ParquetFile(file.path)
  assert parquet.num_row_groups == 3
  encodings = parquet.metadata.row_group(0).column(3).encodings
  assert parquet.metadata.row_group(0).column(3).path_in_schema.startswith('items')
  assert 'RLE_DICTIONARY' in encodings
  assert file.read('rank').column_names == ['rank']
  with pytest.raises(ValueError, match='must have the columns row, hop; it lacks hop'):
    file.read('row', 'hop')


def test_other_columns_labels_and_lists_without_scores(rated, ranked, tmp_path):
  rows = np.arange(40)
  no_scores = Ranked(ranked.items_UK, None, ranked.ranks_U, 1.0)
  answers = np.array([f'answer {row}' for row in rows])
  wide = np.arange(80.0).reshape(40, 2)
  write(tmp_path, rated, no_scores, rows, name='baselines/popularity', answer=answers, wide=wide)
  found = predictions.Predictions(tmp_path, 'test', 'baselines/popularity').read()
  assert 'scores' not in found.column_names
  assert found['answer'].to_pylist() == answers.tolist()
  assert found['wide'].to_pylist() == wide.tolist()
  labels = {'hop': Labels(('1', 'none'), (rows % 2).astype(np.int8))}
  groups = predictions.groups(
    predictions.Ids(rated[1]), 'test', rows, predictions.of_labels(labels)
  )
  predictions.write(tmp_path, predictions.record('test', 'rows', 40, **RECORD), groups)
  assert (
    predictions.Predictions(tmp_path, 'test', 'rows').read()['hop'].to_pylist()
    == ['1', 'none'] * 20
  )
  assert predictions.names(tmp_path, 'test') == ['baselines/popularity']
  nearest = np.where(rows % 2, -1, rows % 24)
  groups = predictions.groups(
    predictions.Ids(rated[1]), 'test', rows, {'nearest': nearest}, ('nearest',)
  )
  predictions.write(tmp_path, predictions.record('test', 'title', 40, **RECORD), groups)
  named = predictions.Predictions(tmp_path, 'test', 'title').read()['nearest'].to_pylist()
  assert named[:3] == [rated[1].items[0]['id'], None, rated[1].items[2]['id']]
  predictions.remove_others(tmp_path, [('test', 'rows')])
  with pytest.raises(ValueError, match='must hold the predictions of an evaluation'):
    predictions.names(tmp_path, 'test')
  assert predictions.Predictions(tmp_path, 'test', 'rows').record['rows'] == 40


def test_a_failed_write_leaves_the_earlier_file_and_other_hosts_write_nothing(
  rated, ranked, tmp_path, monkeypatch
):
  rows = np.arange(40)
  write(tmp_path, rated, ranked, rows)
  before = (tmp_path / 'predictions/test/retrieval.parquet').read_bytes()

  def broken():
    yield {'row': pa.array([1, 2])}
    raise OSError('the disk is full')

  record = predictions.record('test', 'retrieval', 2, **RECORD)
  with pytest.raises(OSError, match='the disk is full'):
    predictions.write(tmp_path, record, broken())
  folder = tmp_path / 'predictions/test'
  assert [path.name for path in folder.iterdir()] == ['retrieval.parquet']
  assert (folder / 'retrieval.parquet').read_bytes() == before
  monkeypatch.setattr(distributed, 'is_host0', lambda: False)
  write(tmp_path / 'other', rated, ranked, rows)
  assert not (tmp_path / 'other').exists()


def test_missing_damaged_and_foreign_files_have_one_message(rated, ranked, tmp_path):
  with pytest.raises(
    ValueError, match=r'no predictions of retrieval on the test rows\. Run --mode='
  ):
    predictions.Predictions(tmp_path, 'test', 'retrieval')
  write(tmp_path, rated, ranked, np.arange(40))
  path = predictions.path(tmp_path, 'test', 'retrieval')
  whole = path.read_bytes()
  at = len(whole) // 2
  for damaged in (b'', whole[:100], whole[:-10], b'PAR1' + b'\0' * 100 + b'PAR1'):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='must be a whole Parquet file; it is damaged') as error:
      predictions.Predictions(tmp_path, 'test', 'retrieval')
    assert '\n' not in str(error.value)
  for at in range(60, len(whole) - 4000, 97):  # a flipped byte of the data
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(ValueError, match='it is damaged'):
      predictions.Predictions(tmp_path, 'test', 'retrieval').read()
  pq.write_table(pa.table({'row': [1]}), path)
  with pytest.raises(ValueError, match="no complete record 'recjax'"):
    predictions.Predictions(tmp_path, 'test', 'retrieval')
  for record in ('[]', 'x', '{"version": 1}'):
    table = pa.table({'row': [1]}).replace_schema_metadata({'recjax': record})
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="no complete record 'recjax'"):
      predictions.Predictions(tmp_path, 'test', 'retrieval')
  record = predictions.record('test', 'retrieval', 1, **RECORD) | {'version': 2}
  table = pa.table({'row': [1]}).replace_schema_metadata({'recjax': json.dumps(record)})
  pq.write_table(table, path)
  with pytest.raises(ValueError, match='must be of version 1 or earlier; got 2'):
    predictions.Predictions(tmp_path, 'test', 'retrieval')
