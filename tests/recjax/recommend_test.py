"""Ranked items: prompts as in training, seen items, items that share a SID, and the file of results."""

import dataclasses
import json

from flax import nnx
import numpy as np
import pytest

from recjax import models
from recjax.decode.ranker import Ranker
from recjax.metrics import ranking
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.recommend import Recommendation, Recommender, Request, make_ranker
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.workdir.parts import Parts
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
  return Recommender(ranker_of(config, dataset), params, 7)


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
    ([list('abcdefghijklmnopqrstuv')], {}, "'a', 'b', 'c', .*'s', 't' and 2 more are not"),
    (['i03', ['i03']], {}, 'histories must be item ids or lists of item ids, not both'),
    ('i03', {}, 'a history must be a list of item ids'),
    ({'items': []}, {}, 'the history: a mapping must have the key history'),
    (['i03'], {'k': 0}, r'^k must be from 1 to 24, the beams of the search \(argument beams of load\); got 0$'),
    (['i03'], {'k': 25}, 'k must be from 1 to 24'),
    (['i03'], {'k': 4, 'beams': 3}, r'k must be from 1 to 3, the beams of the search \(argument beams\); got 4'),
    (['i03'], {'beams': 0}, 'beams must be a positive number; got 0'),
    (['i03'], {'within': 'red'}, "within needs masks, and none are loaded; got 'red'"),
    (['i03'], {'within': ['x']}, 'within must leave at least one item'),
    (['i03'], {'exclude': 7}, 'exclude must be a collection of ids; got 7'),
    ({'history': 5}, {}, 'a history must be a list of item ids, oldest first; got 5'),
    ({'i03', 'i01'}, {}, 'a history must be a list of item ids, oldest first; got {'),
    ([{'i03', 'i01'}], {}, 'a history must be a list of item ids, oldest first; got {'),
    (iter([['x']]), {'k': 99}, 'k must be from 1 to 24'),
    (['i03'], {'exclude': 'i01'}, 'exclude must be a collection of ids'),
    (['i03'], {'unknown': 'drop'}, "unknown must be 'error' or 'skip'"),
    ({'history': ['i03'], 'times': [1, 2]}, {}, 'times must be a list with one value per item'),
  ],
)  # fmt: skip
def test_a_wrong_argument_is_named(recommender, histories, options, message):
  with pytest.raises(ValueError, match=message):
    recommender.recommend(histories, **options)


def test_the_number_of_beams_can_be_chosen(noted, recommender):
  config, dataset, params = noted
  few = Recommender(ranker_of(config, dataset, beams=3), params, 7)
  assert few.beams == 3
  assert few.recommend(['i03'], k=3) == recommender.recommend(['i03'], k=3, beams=3)


def test_every_request_of_a_wave_has_its_own_arguments(noted, recommender):
  history, ranked = (
    ['i03', 'i01'],
    [each.item for each in recommender.recommend(['i03', 'i01'], k=22)],
  )
  within, popular = ranked[5:9], np.bincount(noted[1].train.values, minlength=24)
  requests = [
    Request(history=history, k=3, exclude=ranked[:2]),
    Request(history=history, k=22, within=[*within, 'gone']),
    Request(history=['new', *history], k=3, unknown='skip'),
    Request(history=['new'], k=2, exclude=within, unknown='skip'),
    Request(history=['new']),
    Request(history=history, k=2, candidates=['i01', *ranked[3:6], 'i01'], exclude=ranked[4:5]),
    Request(history=history, k=2, beams=2),
    Request(history=history, k=99),
  ]
  answers = recommender.answer(requests, popular=True, raises=False)
  found = [[each.item for each in answer.recommendations] for answer in answers]
  assert found[:3] == [ranked[2:5], within, ranked[:3]]
  open_items = [i for i in range(24) if f'i{i:02}' not in within]
  best_two = sorted(open_items, key=lambda i: -popular[i])[:2]
  assert found[3] == [f'i{i:02}' for i in best_two]
  assert answers[3].note == 'the history is empty: these are the most popular items'
  share = (popular[best_two[0]] + 1) / (popular.sum() + 24)
  assert answers[3].recommendations[0].score == pytest.approx(np.log(share))
  assert [answer.unknown for answer in answers[2:4]] == [['new'], ['new']]
  assert "request 4: every item must be in the catalogue; 'new' is not" in answers[4].error
  named = dict(
    zip(
      ['i01', ranked[3], ranked[5]],
      recommender.score(history, ['i01', ranked[3], ranked[5]]),
      strict=True,
    )
  )
  assert found[5] == sorted(named, key=lambda item: -named[item])[:2]
  assert found[6] == [each.item for each in recommender.recommend(history, k=2, beams=2)]
  assert answers[7].error.startswith('k must be from 1 to 24') and not found[7]
  with pytest.raises(ValueError, match=r"^request 4: every item must be in the catalogue; 'new'"):
    recommender.answer(requests)
  assert recommender.answer([]) == []


def test_scores_of_given_items_are_those_of_an_exhaustive_search(noted, recommender):
  exact = dict(recommender.recommend(['i03', 'i01'], k=24)[i][::2] for i in range(22))
  items = list(exact)[::-3]
  assert recommender.score(['i03', 'i01'], items) == pytest.approx(
    [exact[i] for i in items], abs=1e-5
  )
  other = {each.item: each.score for each in recommender.recommend([], k=24)}
  two = [['i03', 'i01'], []]
  assert recommender.score(two, items)[1] == pytest.approx([other[i] for i in items], abs=1e-5)
  lists = [items[:2], list(other)]
  first, second = recommender.score(two, lists)
  assert first == pytest.approx([exact[i] for i in items[:2]], abs=1e-5)
  assert second == pytest.approx(list(other.values()), abs=1e-5)
  streamed = recommender.score(iter(two), iter(lists))
  assert [pytest.approx(each, abs=1e-5) for each in streamed] == [first, second]
  assert recommender.score([], []) == [] and recommender.score([[]], [[]]) == [[]]


@pytest.mark.parametrize(
  ('histories', 'candidates', 'message'),
  [
    (['i03'], ['x', 'i01', 'y'], "^candidates: every item must be in the catalogue; 'x', 'y' are not$"),
    ([['i03'], ['i01']], [['x'], ['y']], "candidates: every item must be in the catalogue; 'x', 'y' are not$"),
    (['i03'], 'i01', 'candidates must be a collection of ids'),
    (['i03'], [['i01']], 'candidates of one history must be one list of ids'),
    ([['i03'], ['i01']], [['i01']], 'a list for every history; history 1; got .fewer lists than histories'),
    ([['i03']], [['i01'], ['i02']], 'more lists than histories'),
    ([['i03']], ['i01', ['i02']], 'candidates must be item ids or lists of item ids, not both'),
  ],
)  # fmt: skip
def test_wrong_candidates_are_named(recommender, histories, candidates, message):
  with pytest.raises(ValueError, match=message):
    recommender.score(histories, candidates)


def test_a_stream_is_ranked_window_by_window(recommender, monkeypatch):
  monkeypatch.setattr('recjax.recommend._WINDOW', 2)
  read = []

  def histories():
    for n in range(5):
      read.append(n)
      yield [f'i{n:02}'] * (n + 1)

  stream = recommender.recommend(histories(), k=24)
  first = next(stream)
  assert read == [0, 1]
  expected = recommender.recommend(list(histories()), k=24)
  for got, want in zip([first, *stream], expected, strict=True):
    assert {e.item: e.score for e in got} == pytest.approx(
      {e.item: e.score for e in want}, abs=1e-5
    )
  assert recommender.recommend(iter(['i03', 'i01'])) == recommender.recommend(['i03', 'i01'])
  assert list(recommender.recommend(iter([]))) == []


def test_a_long_exclusion_leaves_the_same_items(recommender, monkeypatch):
  excluded = [f'i{n:02}' for n in range(0, 24, 2)]
  short = recommender.recommend(
    ['i03'], k=24, exclude=excluded, within=['i05', 'i06', 'i07', 'i09']
  )
  monkeypatch.setattr('recjax.decode.waves._LONG', 3)
  assert (
    recommender.recommend(['i03'], k=24, exclude=excluded, within=['i05', 'i06', 'i07', 'i09'])
    == short
  )
  assert sorted(each.item for each in short) == ['i05', 'i07', 'i09']
  with pytest.raises(ValueError, match='exclude must leave at least one item'):
    recommender.recommend(['i03'], exclude=[f'i{n:02}' for n in range(24)])


def test_exclusions_leave_k_items_while_so_many_are_left(noted, tmp_path):
  config, dataset, params = noted
  recommender = Recommender(ranker_of(config, dataset, beams=4), params, 7)
  catalogue = [item['id'] for item in dataset.items]
  found = recommender.recommend(['i03'], k=4)
  programs = recommender._ranker._search._cache_size()
  best = [each.item for each in found]
  excluded = [*best, *(item for item in catalogue if item not in best)][:21]
  excluded = [item for item in excluded if item != 'i03']
  left = {item for item in catalogue if item not in (*excluded, 'i03')}
  assert len(left) in (3, 4)
  for given in (excluded, excluded * 20):  # ids count once
    assert {e.item for e in recommender.recommend(['i03'], k=4, exclude=given)} == left
  assert recommender.recommend(['i03'], k=4) == found
  assert recommender._ranker._search._cache_size() == programs  # nothing was compiled
  history = Request(history=[item for item in catalogue if item not in left], k=4)
  (lost,) = recommender.answer([history])
  assert len(lost.recommendations) < len(left)
  assert lost.recommendations or 'ask for more beams' in lost.note
  (none,) = recommender.answer([Request(history=catalogue, k=4)])
  assert (none.recommendations, none.note) == ([], None)
  (streamed,) = recommender.recommend(iter([['i03']]), k=4, exclude=excluded)
  assert {each.item for each in streamed} == left
  histories, out = tmp_path / 'h.jsonl', tmp_path / 'out.jsonl'
  rows = [{'history': ['i03']}, {'history': catalogue}, {'history': best[:1]}] * 40
  histories.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  recommender.recommend_file(histories, out, 4, exclude=excluded)
  ranked = [json.loads(line)['recommendations'] for line in out.read_text().splitlines()]
  assert [{each['item'] for each in items} for items in ranked[:3]] == [left, set(), left | {'i03'}]
  assert [len(items) for items in ranked] == [len(left), 0, min(4, len(left) + 1)] * 40


@pytest.fixture(scope='module')
def histories_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('histories') / 'h.jsonl'
  lines = [{'user': n, 'history': [f'i{n:02}'] * (n % 3 + 1)} for n in range(10)]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def test_recommendations_are_added_to_the_lines_of_a_file(noted, recommender, tmp_path):
  config, dataset, params = noted
  histories, out = tmp_path / 'h.jsonl', tmp_path / 'made' / 'out.jsonl'
  lines = [
    {'user': 'ann', 'history': ['i03', 'i01']},
    {'history': ['i05', 'gone'], 'times': [1, 2]},
  ]
  histories.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(ValueError, match="'gone' is not"):
    recommender.recommend_file(histories, out, 5)
  assert not out.parent.exists()
  recommender.recommend_file(histories, out, 5, skip_unknown=True)
  assert [path.name for path in out.parent.iterdir()] == ['out.jsonl']
  first, second = map(json.loads, out.read_text().splitlines())
  assert first.items() >= lines[0].items()
  assert second['history'] == ['i05'] and second['unknown'] == ['gone']
  known = [{}, {'times': np.array([1])}]
  items_UM, scores_UM = ranker_of(config, dataset).rank(
    params, [np.array([3, 1], np.int32), np.array([5], np.int32)], known=known
  )
  for row, items, scores in zip((first, second), items_UM, scores_UM, strict=True):
    assert row['recommendations'] == [
      {'item': f'i{i:02}', 'title': dataset.items[i]['title'], 'score': float(score)}
      for i, score in zip(items[:5], scores[:5], strict=True)
    ]


class Killed(Exception):
  """Stands for a kill."""


@pytest.mark.parametrize('name', ['out.jsonl', 'out.jsonl.gz', 'out.parquet'])
def test_a_killed_file_continues_and_ends_with_the_same_bytes(
  recommender, histories_file, tmp_path, monkeypatch, name, caplog
):
  caplog.set_level('INFO')
  whole, out = tmp_path / 'whole' / name, tmp_path / name
  recommender.recommend_file(histories_file, whole, 5, part_size=4)
  write, ranked = Parts.write, []

  def killing(self, number, content):
    if number == 1 and len(ranked) == 2:
      raise Killed
    write(self, number, content)

  def rank(self, params, histories, *args, **options):
    ranked.append(len(histories))
    return original(self, params, histories, *args, **options)

  original = Ranker.rank
  monkeypatch.setattr(Ranker, 'rank', rank)
  monkeypatch.setattr(Parts, 'write', killing)
  with pytest.raises(Killed):
    recommender.recommend_file(histories_file, out, 5, part_size=4)
  assert not out.exists()
  ranked = [0, 0]
  recommender.recommend_file(histories_file, out, 5, part_size=4)
  assert ranked[2:] == [4, 2]
  assert f'continuing {out} after 4 of 10 histories' in caplog.text
  assert out.read_bytes() == whole.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, 'whole'])


def test_other_parameters_and_settings_start_a_file_anew(
  noted, recommender, histories_file, tmp_path, monkeypatch, caplog
):
  config, dataset, params = noted
  other = {**params, 'tables': {name: 2 * x for name, x in params['tables'].items()}}
  other = Recommender(ranker_of(config, dataset), other, 7)
  out = tmp_path / 'out.jsonl'
  with monkeypatch.context() as patched, pytest.raises(Killed):
    patched.setattr(Parts, 'join', lambda *_: (_ for _ in ()).throw(Killed))
    recommender.recommend_file(histories_file, out, 5)
  parts = tmp_path / '.out.jsonl.parts'
  assert len(list(parts.glob('*.part'))) == 1
  other.recommend_file(histories_file, out, 4, within=['i01', 'i02', 'i05'])
  assert (
    'starting anew; the finished parts of an earlier command differ in checkpoint, k, within'
    in caplog.text
  )
  assert not parts.exists()
  for line in map(json.loads, out.read_text().splitlines()):
    found = {each['item'] for each in line['recommendations']}
    assert found == {'i01', 'i02', 'i05'} - set(line['history'])
