"""Worked examples are chosen by a fixed rule and show what the predictions hold."""

from etils import epath
import numpy as np
import pytest

from recjax.metrics.ranked import Ranked
from recjax.metrics.slices import Labels
from recjax.report import examples
from recjax.workdir import evaluation_file, predictions


@pytest.mark.parametrize(
  ('hits', 'failures', 'expected'), [(50, 50, 5), (2, 50, 2), (50, 2, 8), (3, 4, 3), (0, 20, 0), (20, 0, 10)]
)  # fmt: skip
def test_half_of_the_examples_are_failures(hits, failures, expected):
  is_hit = np.random.default_rng(0).permutation([True] * hits + [False] * failures)
  lines = examples.choose(is_hit)
  assert lines == examples.choose(is_hit)
  assert len(lines) == len(set(lines)) == min(examples.EXAMPLES, hits + failures)
  assert [bool(is_hit[line]) for line in lines] == [True] * expected + [False] * (
    len(lines) - expected
  )


@pytest.fixture
def workdir(tiny_world, tmp_path):
  """A workdir with predictions of every second test row: the target is first, or not in the list."""
  _, dataset = tiny_world
  rows = np.arange(0, dataset.num_rows('test'), 2)
  targets = np.asarray(dataset.targets('test'))[rows]
  items_UK = (targets[:, None] + np.arange(12)) % dataset.num_items
  items_UK[::2] = (items_UK[::2] + 1) % dataset.num_items
  items_UK[:, 11] = -1
  scores_UK = np.broadcast_to(-np.arange(12, dtype=np.float32), items_UK.shape)
  ranked = Ranked.of(items_UK.astype(np.int32), scores_UK, targets, 10, 1.0)
  labels = {'inside': Labels(('outside', 'inside'), (np.arange(len(rows)) % 2).astype(np.int8))}
  ids, data = predictions.Ids(dataset), evaluation_file.data_record(dataset, 'synthetic')
  for name, columns in (
    ('retrieval', predictions.of_ranked(ranked)),
    ('rows', predictions.of_labels(labels)),
  ):
    record = predictions.record('test', name, len(rows), data, {'exclude_seen': True}, 12)
    predictions.write(tmp_path, record, predictions.groups(ids, 'test', rows, columns))
  results = {'step': 12, 'data': data, 'rows': {'test': len(rows)}}
  return epath.Path(tmp_path), results | {'protocol': {'exclude_seen': True}}


def test_examples_show_history_target_and_recommendations(tiny_world, workdir):
  _, dataset = tiny_world
  found = examples.examples(workdir[0], dataset, workdir[1])
  assert [row['is_hit'] for row in found['rows']] == [True] * 5 + [False] * 5
  histories, targets = dataset.histories_and_targets('test')
  users = {user: n for n, user in enumerate(_users(dataset))}
  for row in found['rows']:
    number = users[row['user']]
    item = int(targets[number])
    history = histories[number]
    assert row['target'] == _item(dataset, item)
    assert row['history'] == [_item(dataset, each) for each in history[-10:]]
    assert row['earlier'] == max(len(history) - 10, 0)
    first = item if row['is_hit'] else item + 1
    assert [each['title'] for each in row['recommended']] == [
      _item(dataset, (first + n) % dataset.num_items)['title'] for n in range(10)
    ]
    assert [each['score'] for each in row['recommended']] == [-n for n in range(10)]
    assert row['rank'] == (1 if row['is_hit'] else None)
    assert [each['is_target'] for each in row['recommended']] == [row['is_hit'], *[False] * 9]
    assert row['labels'] == {'inside': 'inside' if row['is_hit'] else 'outside'}


def _item(dataset, item):
  return {'title': dataset.items[item]['title'], 'sid': dataset.sids.codes_IL[item].tolist()}


def _users(dataset):
  rows = np.arange(dataset.num_rows('test'))
  return predictions.Ids(dataset).of_rows('test', rows)['user'].to_pylist()


def test_a_workdir_without_predictions_has_no_examples(tiny_world, workdir):
  path, results = workdir
  predictions.path(path, 'test', 'rows').unlink()
  found = examples.examples(path, tiny_world[1], results)
  assert len(found['rows']) == 10 and found['rows'][0]['labels'] == {}
  predictions.path(path, 'test', 'retrieval').unlink()
  assert examples.examples(path, tiny_world[1], results) is None


@pytest.mark.parametrize(
  ('change', 'differing'),
  [
    ({'step': 13}, 'step'),
    ({'data': {'sids': 'x'}}, 'data'),
    ({'data': None, 'protocol': None}, 'data, protocol'),
    ({'protocol': {'exclude_seen': False}}, 'protocol'),
    ({'evaluators': {'retrieval': {'test': {'rows': 2}}}}, 'rows'),
  ],
)
def test_predictions_of_another_evaluation_are_refused(tiny_world, workdir, change, differing):
  path, results = workdir
  results = {key: value for key, value in (results | change).items() if value is not None}
  message = rf'must be of the evaluation in evaluation\.json; they differ in {differing}\.'
  with pytest.raises(ValueError, match=message):
    examples.examples(path, tiny_world[1], results)
