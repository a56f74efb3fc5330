"""Ranked items: prompts as in training, seen items, items that share a SID, and the file of results."""

import dataclasses
import json

from flax import nnx
import numpy as np
import pytest

from recjax import models
from recjax.metrics import ranking
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.recommend import Recommendation, Recommender, make_ranker
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from tests.recjax.data import rated_world


def test_items_with_the_same_sid_are_ranked_by_popularity(tiny_world):
  config, dataset = tiny_world
  coarse = dataset.sids.codes_IL[:, :2] // np.array([[1, 4]], np.int32)
  kept = SidTable(coarse, (16, 4), 'residual_kmeans', 'keep')
  dataset = dataclasses.replace(dataset, sids=kept)
  assert dataset.sids.sharing_items > 60
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, beams=120))
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  histories = [np.asarray(dataset.train[u]) for u in range(5)]
  items_UM, scores_UM = ranker.rank(params, histories)
  counts = np.zeros(dataset.num_items, int)
  for u in range(dataset.num_users):
    np.add.at(counts, dataset.train[u], 1)
  for history, items, scores in zip(histories, items_UM, scores_UM, strict=True):
    left = set(range(dataset.num_items)) - set(history.tolist())
    items, scores = items[: len(left)].tolist(), scores[: len(left)]
    assert set(items) == left  # every item of the catalogue, once
    sids = [tuple(kept.codes_IL[item].tolist()) for item in items]
    starts = [n for n in range(len(sids)) if n == 0 or sids[n] != sids[n - 1]]
    assert len(starts) == len(set(sids))  # together
    for begin, end in zip(starts, [*starts[1:], len(sids)], strict=True):
      group = items[begin:end]
      assert group == sorted(group, key=lambda item: (-counts[item], item))
      assert len(set(scores[begin:end].tolist())) == 1


@pytest.fixture(scope='module')
def noted(tmp_path_factory):
  """The rated world, with a next_item task that shows gaps and events, and a model."""
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


def ranker_of(config, dataset, **options):
  return make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh), **options)


def test_evaluation_prompts_show_the_columns_of_training(noted):
  config, dataset, params = noted
  ranker = ranker_of(config, dataset)
  assert ranker.columns == ('events', 'times')
  ranked = rank_rows(ranker, params, dataset, 'test', (10,), np.arange(2))
  metrics = ranking.ranking_metrics(ranked.ranks_U, (10,))
  histories, targets = dataset.histories_and_targets('test')
  ranks = []
  for u in range(2):
    rows = slice(histories.offsets[u], histories.offsets[u + 1])
    known = {
      'times': dataset.history_column('test', 'times')[rows],
      'events': dataset.history_column('test', 'events')[rows],
    }
    (items,), _ = ranker.rank(params, [histories[u]], known=[known])
    ranks.append(int(np.flatnonzero(items == targets[u])[0]) if targets[u] in items else 99)
  assert metrics['recall@10'] == pytest.approx(np.mean([rank < 10 for rank in ranks]))
  # Times and events change the scores.
  silent, _ = ranker.rank(params, [histories[0]])
  assert silent.shape == (1, 24)
  _, with_notes = ranker.rank(params, [histories[0]], known=[known | {'times': None}])
  _, without = ranker.rank(params, [histories[0]])
  assert (with_notes != without).any()


def test_seen_items_are_recommended_unless_they_are_excluded(noted):
  config, dataset, params = noted
  history = [np.asarray(dataset.train[3])]
  (items,), _ = ranker_of(config, dataset).rank(params, history)
  assert not set(items.tolist()) & set(history[0].tolist())
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, exclude_seen=False))
  (items,), _ = ranker_of(config, dataset).rank(params, history)
  assert set(items.tolist()) == set(range(dataset.num_items))


def test_items_of_context_are_not_excluded(noted, viewed):
  config, dataset, params = noted
  ranker = ranker_of(config, viewed)
  history, views = [np.asarray(dataset.train[3])], viewed.event_names.index('view')
  events = np.where(np.arange(len(history[0])) % 2, views, 1 - views)
  ranked, _ = ranker.rank(params, history, known=[{'events': events}])
  found = set(ranked[0].tolist()) & set(history[0].tolist())
  bought = set(history[0][events != views].tolist())
  assert found == set(history[0].tolist()) - bought
  ranked, _ = ranker.rank(params, history)  # kinds that are not known count as seen
  assert not set(ranked[0].tolist()) & set(history[0].tolist())


@pytest.fixture(scope='module')
def recommender(noted):
  config, dataset, params = noted
  return Recommender(ranker_of(config, dataset), dataset, params, 7)


def best(noted, history, exclude=(), **known):
  """Returns item and score of every item, from the search of arrays."""
  config, dataset, params = noted
  ranker = ranker_of(config, dataset)
  (items,), (scores,) = ranker.rank(params, [np.array(history, np.int32)], known=[known])
  return [
    (f'i{i:02}', pytest.approx(float(score), abs=1e-5))
    for i, score in zip(items, scores, strict=True)
    if i >= 0 and i not in exclude
  ]


def test_one_history_gives_one_list_and_several_give_a_list_of_lists(noted, recommender):
  expected = best(noted, [3, 1])
  one = recommender.recommend(['i03', 'i01'], k=5)
  assert [(each.item, each.score) for each in one] == expected[:5]
  assert one[0] == Recommendation(
    one[0].item, noted[1].items[int(one[0].item[1:])]['title'], one[0].score
  )
  many = recommender.recommend([['i03', 'i01'], (), ['i05'] * 9])
  assert [(each.item, each.score) for each in many[0]] == expected[:10]
  assert [(each.item, each.score) for each in many[1]] == best(noted, [])[:10]
  assert [(each.item, each.score) for each in many[2]] == best(noted, [5] * 9)[:10]
  assert recommender.recommend([]) == recommender.recommend([[]])[0] == many[1]
  assert recommender.recommend(np.array(['i03', 'i01']), k=5) == one
  assert len(recommender.recommend(['i03'] * 700, k=24)) == 23  # more than the compiled length


def test_times_and_events_of_a_mapping_are_read(noted, recommender):
  assert recommender.columns == ('events', 'times')
  history = {
    'history': ['i03', 'i01'],
    'times': (10, 99999),
    'events': ['buy', 'view'],
    'user': 'ann',
  }
  names = noted[1].event_names
  history['events'] = [names[0], names[-1]]
  known = {'times': np.array([10, 99999]), 'events': np.array([0, len(names) - 1])}
  got = recommender.recommend(history, k=5)
  assert [(each.item, each.score) for each in got] == best(noted, [3, 1], **known)[:5]


def test_excluded_and_unknown_items(noted, recommender):
  left = recommender.recommend(['i03', 'i01'], k=24, exclude={'i07', 'i08', 'gone'})
  assert [(each.item, each.score) for each in left] == best(noted, [3, 1], exclude=(7, 8))
  skipped = recommender.recommend(['new', 'i03', 'i01'], k=24, unknown='skip')
  assert skipped == recommender.recommend(['i03', 'i01'], k=24)
  assert recommender.recommend(['new'], unknown='skip') == recommender.recommend([])


@pytest.mark.parametrize(
  ('histories', 'options', 'message'),
  [
    (['i03', 'x', 'y'], {}, "^the history: every item must be in the catalogue; 'x', 'y' are not. Set unknown='skip' to leave such items out$"),
    ([['i03'], ['x']], {}, "^history 1: every item must be in the catalogue; 'x' is not. Set unknown='skip' to leave such items out$"),
    ([list('abcdefg')], {}, "'a', 'b', 'c', 'd', 'e' and 2 more are not"),
    (['i03', ['i03']], {}, 'histories must be item ids or lists of item ids, not both'),
    ('i03', {}, 'a history must be a list of item ids'),
    ({'items': []}, {}, 'the history: a mapping must have the key history'),
    (['i03'], {'k': 0}, r'^k must be from 1 to 24, the beams of the search \(argument beams of load\); got 0$'),
    (['i03'], {'k': 25}, 'k must be from 1 to 24'),
    (['i03'], {'exclude': 'i01'}, 'exclude must be a collection of ids'),
    (['i03'], {'unknown': 'drop'}, "unknown must be 'error' or 'skip'"),
    ({'history': ['i03'], 'times': [1, 2]}, {}, 'times must be a list with one value per item'),
  ],
)  # fmt: skip
def test_a_wrong_argument_is_named(recommender, histories, options, message):
  with pytest.raises(ValueError, match=message):
    recommender.recommend(histories, **options)


def test_the_number_of_beams_can_be_chosen(noted):
  config, dataset, params = noted
  few = Recommender(ranker_of(config, dataset, beams=3), dataset, params, 7)
  assert few.beams == 3
  assert len(few.recommend(['i03'], k=3)) == 3


def test_recommendations_are_added_to_the_lines_of_a_file(noted, tmp_path):
  config, dataset, params = noted
  ranker = ranker_of(config, dataset)
  recommender = Recommender(ranker, dataset, params, 7)
  histories, out = tmp_path / 'h.jsonl', tmp_path / 'made' / 'out.jsonl'
  lines = [
    {'user': 'ann', 'history': ['i03', 'i01']},
    {'history': ['i05', 'gone'], 'times': [1, 2]},
  ]
  histories.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(ValueError, match="'gone' is not"):
    recommender.recommend_file(histories, out, 5)
  assert not out.exists()
  recommender.recommend_file(histories, out, 5, skip_unknown=True)
  assert [path.name for path in out.parent.iterdir()] == ['out.jsonl']
  first, second = map(json.loads, out.read_text().splitlines())
  assert first.items() >= lines[0].items()
  assert second['history'] == ['i05'] and second['unknown'] == ['gone']
  (items,), (scores,) = ranker.rank(params, [np.array([3, 1], np.int32)])
  assert first['recommendations'] == [
    {'item': f'i{i:02}', 'title': dataset.items[i]['title'], 'score': float(score)}
    for i, score in zip(items[:5], scores[:5], strict=True)
  ]
