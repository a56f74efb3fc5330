"""Ranked items: histories read from a file, seen items, and items that share a SID."""

import dataclasses
import json
import pathlib
import types

from flax import nnx
import numpy as np
import pytest

from recjax import models
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate
from recjax.recommend import Recommender, read_histories
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from tests.recjax.data import rated_world


def test_items_that_share_a_sid_follow_each_other_by_their_popularity_in_training(tiny_world):
  config, dataset = tiny_world
  coarse = dataset.sids.codes_IL[:, :2] // np.array([[1, 4]], np.int32)
  kept = SidTable(coarse, (16, 4), 'residual_kmeans', 'keep')
  dataset = dataclasses.replace(dataset, sids=kept)
  assert dataset.sids.sharing_items > 60
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, beams=120))
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  recommender = Recommender(config, dataset, mesh_lib.make_mesh(config.mesh))
  histories = [np.asarray(dataset.train[u]) for u in range(5)]
  items_UM, scores_UM = recommender.rank(params, histories)
  counts = np.zeros(dataset.num_items, int)
  for u in range(dataset.num_users):
    np.add.at(counts, dataset.train[u], 1)
  for history, items, scores in zip(histories, items_UM, scores_UM, strict=True):
    left = set(range(dataset.num_items)) - set(history.tolist())
    items, scores = items[: len(left)].tolist(), scores[: len(left)]
    assert set(items) == left  # the whole catalogue, each item once
    sids = [tuple(kept.codes_IL[item].tolist()) for item in items]
    starts = [n for n in range(len(sids)) if n == 0 or sids[n] != sids[n - 1]]
    assert len(starts) == len(set(sids))  # together
    for begin, end in zip(starts, [*starts[1:], len(sids)], strict=True):
      group = items[begin:end]
      assert group == sorted(group, key=lambda item: (-counts[item], item))
      assert len(set(scores[begin:end].tolist())) == 1


@pytest.fixture(scope='module')
def noted(tmp_path_factory):
  """The rated world with a next_item that says gaps and events, a model and its recommender."""
  config, dataset = rated_world.prepared(tmp_path_factory.mktemp('noted'))
  next_item = dataclasses.replace(config.mixture['next_item'], gaps=True, events=True)
  config = dataclasses.replace(
    config,
    mixture={'next_item': next_item},
    model=dataclasses.replace(config.model, depth=1, width=16, ff_width=32, head_width=8),
    eval=dataclasses.replace(config.eval, batch_size=16, ks=(10,), beams=24),
  )
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  return config, dataset, params


def recommender_of(config, dataset):
  return Recommender(config, dataset, mesh_lib.make_mesh(config.mesh))


def test_evaluation_shows_what_training_shows(noted):
  config, dataset, params = noted
  recommender = recommender_of(config, dataset)
  assert recommender.columns == ('events', 'times')
  metrics = evaluate(recommender, params, dataset, 'test', (10,), np.arange(2), progress=False)
  histories, targets = dataset.histories_and_targets('test')
  ranks = []
  for u in range(2):
    rows = slice(histories.offsets[u], histories.offsets[u + 1])
    known = {
      'times': dataset.of_histories('test', 'times')[rows],
      'events': dataset.of_histories('test', 'events')[rows],
    }
    (items,), _ = recommender.rank(params, [histories[u]], known=[known])
    ranks.append(int(np.flatnonzero(items == targets[u])[0]) if targets[u] in items else 99)
  assert metrics['recall@10'] == pytest.approx(np.mean([rank < 10 for rank in ranks]))
  # What is known of the interactions changes the scores.
  silent, _ = recommender.rank(params, [histories[0]])
  assert silent.shape == (1, 24)
  _, with_notes = recommender.rank(params, [histories[0]], known=[known | {'times': None}])
  _, without = recommender.rank(params, [histories[0]])
  assert (with_notes != without).any()


def test_seen_items_are_recommended_where_they_are_not_excluded(noted):
  config, dataset, params = noted
  history = [np.asarray(dataset.train[3])]
  (items,), _ = recommender_of(config, dataset).rank(params, history)
  assert not set(items.tolist()) & set(history[0].tolist())
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, exclude_seen=False))
  (items,), _ = recommender_of(config, dataset).rank(params, history)
  assert set(items.tolist()) == set(range(dataset.num_items))


def write(tmp_path: pathlib.Path, **row) -> pathlib.Path:
  path = tmp_path / 'h.jsonl'
  path.write_text(json.dumps(row) + '\n')
  return path


def test_histories_of_a_file_with_times_and_events(noted, tmp_path):
  _, dataset, _ = noted
  path = write(tmp_path, user='ann', history=['i03', 'i01'], times=[5, 7.5], events=['buy', 'view'])
  (row,) = read_histories(path, dataset, ('events', 'times'))
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [5, 7]
  assert [dataset.event_names[e] for e in row.known['events']] == ['buy', 'view']
  assert row.fields['user'] == 'ann'
  (row,) = read_histories(path, dataset)
  assert row.known == {}


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'history': ['i03', 'i99']}, r"h.jsonl:1: every item must be in the catalogue; 'i99' is not"),
    ({'history': [['i03']]}, r'every item must be in the catalogue'),
    ({'history': ['i03'], 'times': [1, 2]}, r'times must be a list of one value an item'),
    ({'history': ['i03'], 'times': ['noon']}, r'times must be numbers of seconds'),
    ({'history': ['i03'], 'times': [float('nan')]}, r'h.jsonl:1: times must be numbers of seconds'),
    (
      {'history': ['i03'], 'events': ['look']},
      r"every event must be one of the log; 'look' is not",
    ),
  ],
)
def test_bad_histories_are_named(noted, tmp_path, row, message):
  dataset: Dataset = noted[1]
  with pytest.raises(ValueError, match=message):
    read_histories(write(tmp_path, **row), dataset, ('events', 'times'))


def test_lines_end_where_json_lines_do(noted, tmp_path):
  path = tmp_path / 'h.jsonl'
  path.write_bytes('\ufeff{"history": ["i03"], "note": "a\u2028b"}\r\n\n{"history": []}'.encode())
  first, second = read_histories(path, noted[1])
  assert (first.items.tolist(), first.fields['note']) == ([3], 'a\u2028b')
  assert not len(second.items)


def test_ids_may_be_numbers(tmp_path):
  dataset = types.SimpleNamespace(items=[{'id': str(n)} for n in range(20)], event_names=())
  path = write(tmp_path, history=[7, '3', 1.0, 9999])
  (row,) = read_histories(path, dataset, skip_unknown=True)
  assert row.items.tolist() == [7, 3]
  assert row.fields['unknown'] == [1.0, '9999']


def test_items_that_are_gone_may_be_left_out(noted, tmp_path):
  dataset = noted[1]
  path = write(tmp_path, history=['gone', 'i03', 'i99', 'i01'], times=[1, 2, 3, 4])
  (row,) = read_histories(path, dataset, ('times',), skip_unknown=True)
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [2, 4]
  assert row.fields['unknown'] == ['gone', 'i99']
