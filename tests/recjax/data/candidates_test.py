"""Drawn candidates are a function of seed, split and row; files are checked line by line."""

import collections
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data import candidates


@pytest.mark.parametrize('split', ['validation', 'test'])
@pytest.mark.parametrize('weighting', ['popularity', 'uniform'])
def test_drawn_candidates_are_neither_the_target_nor_in_the_history(
  decoder_corpus, split, weighting
):
  corpus = decoder_corpus
  histories, targets = corpus.dataset.histories_and_targets(split)
  rows = np.arange(len(targets))
  drawn = candidates.draw(corpus, split, rows, 8, weighting, 3)
  assert (drawn[:, 0] == targets).all()
  for row, items in enumerate(drawn.tolist()):
    assert len(set(items)) == 8
    assert not set(items[1:]) & set(histories[row].tolist())
  few = candidates.draw(corpus, split, rows[5::7], 8, weighting, 3)  # another sample of the rows
  np.testing.assert_array_equal(few, drawn[5::7])
  assert (candidates.draw(corpus, split, rows, 8, weighting, 4) != drawn).any()
  longer = candidates.draw(corpus, split, rows, 12, weighting, 3)
  assert all(len(set(items)) == 12 for items in longer.tolist())


def test_negatives_follow_their_rule(decoder_corpus):
  corpus, counts = decoder_corpus, np.bincount(decoder_corpus.train.values, minlength=24)
  rows, means = np.arange(corpus.dataset.num_rows('test')), {}
  for weighting in ('popularity', 'uniform'):
    drawn = collections.Counter()
    for seed in range(40):
      found = candidates.draw(corpus, 'test', rows, 2, weighting, seed)
      drawn.update(found[:, 1].tolist())
    means[weighting] = sum(counts[i] * n for i, n in drawn.items()) / drawn.total()
  assert means['popularity'] > means['uniform'] + 0.3


def test_candidates_above_the_catalogue_are_refused(decoder_corpus):
  dataset = decoder_corpus.dataset
  most = max(
    len({*history.tolist(), int(target)})
    for split in ('validation', 'test')
    for histories, targets in [dataset.histories_and_targets(split)]
    for history, target in zip((histories[r] for r in range(len(targets))), targets, strict=True)
  )
  largest = 24 - most + 1
  candidates.check_room(dataset, largest, 'evaluators.ranking.candidates')
  with pytest.raises(
    ValueError, match=rf'candidates must be at most {largest}: .*; got {largest + 1}'
  ):
    candidates.check_room(dataset, largest + 1, 'evaluators.ranking.candidates')
  with pytest.raises(ValueError, match='the catalogue has 24 items'):
    candidates.check_room(dataset, 1000, 'evaluators.ranking.candidates')


def write(path, lines):
  path.write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
  return path


def test_files_name_users_or_rows_by_raw_ids(decoder_corpus, tmp_path):
  dataset = decoder_corpus.dataset
  target = dataset.items[dataset.targets('test')[2]]['id']
  lines = [
    {'user': 'u00', 'candidates': ['i03', 'i01', 'i03']},
    {'row': 2, 'candidates': [target, 'i04', 'i05']},
    {'row': 2, 'split': 'validation', 'candidates': ['i07', 'i08', 'i09']},
  ]
  path = write(tmp_path / 'c.jsonl', lines)
  pq.write_table(pa.Table.from_pylist(lines, schema=pa.schema([
    ('user', pa.string()), ('row', pa.int64()), ('split', pa.string()),
    ('candidates', pa.list_(pa.string())),
  ])), tmp_path / 'c.parquet')  # fmt: skip
  for file in (path, tmp_path / 'c.parquet'):
    found = candidates.read(file, dataset, 'evaluators.ranking.file')
    rows, table = candidates.table(found['test'], np.arange(dataset.num_rows('test')))
    assert rows.tolist() == [0, 2]
    index = {item['id']: i for i, item in enumerate(dataset.items)}
    assert [i for i in table[1].tolist() if i >= 0] == [index[i] for i in (target, 'i04', 'i05')]
    assert table[0, 0] == dataset.targets('test')[0]
    others = [index[i] for i in ('i03', 'i01') if index[i] != table[0, 0]]
    assert [i for i in table[0].tolist() if i >= 0][1:] == others
    assert set(found['validation']) == {2}
    rows, table = candidates.table(found['validation'], np.array([0, 1]))
    assert len(rows) == len(table) == 0


@pytest.mark.parametrize(
  'lines, message',
  [
    (['no object'], 'c.jsonl:1: a line must be an object with a list "candidates"'),
    ([{'user': 'u00'}], 'a line must be an object with a list "candidates"'),
    ([{'user': 'nobody', 'candidates': ['i01', 'i02']}], "must be a user of the log.*got 'nobody'"),
    ([{'candidates': ['i01', 'i02']}], 'must be a user of the log, or row be given; got None'),
    ([{'user': 'u00', 'candidates': ['i01', 'x9']}], r"must be in the catalogue; got \['x9'\]"),
    ([{'row': 40, 'candidates': ['i01', 'i02']}], 'row must be from 0 to 39; got 40'),
    ([{'row': 1, 'split': 'train', 'candidates': ['i01']}], "split must be validation or test; got 't"),
    ([{'row': 0, 'candidates': ['i01', 'i02']}] * 2, 'c.jsonl:2: a row of the split test must have one'),
    ([{'row': 0, 'candidates': []}], r'a row needs a candidate beside its target; got \[\]'),
  ],
)  # fmt: skip
def test_a_line_that_does_not_fit_is_named(decoder_corpus, tmp_path, lines, message):
  path = write(tmp_path / 'c.jsonl', lines)
  with pytest.raises(ValueError, match=message):
    candidates.read(path, decoder_corpus.dataset, 'evaluators.ranking.file')


def test_files_that_are_no_files_are_named(decoder_corpus, tmp_path):
  field = 'evaluators.ranking.file'
  with pytest.raises(OSError, match=r'--config.evaluators.ranking.file'):
    candidates.read(tmp_path / 'none.jsonl', decoder_corpus.dataset, field)
  (tmp_path / 'c.jsonl').write_text('{"user": ')
  with pytest.raises(ValueError, match=r'c.jsonl:1: a line must be a JSON object'):
    candidates.read(tmp_path / 'c.jsonl', decoder_corpus.dataset, field)
  (tmp_path / 'c.parquet').write_text('c')
  with pytest.raises(ValueError, match=r'c.parquet must be a whole Parquet file; '):
    candidates.read(tmp_path / 'c.parquet', decoder_corpus.dataset, field)
  (tmp_path / 'c.jsonl').write_text('\n')
  with pytest.raises(ValueError, match=r'must hold candidates of at least one held-out row'):
    candidates.read(tmp_path / 'c.jsonl', decoder_corpus.dataset, field)
