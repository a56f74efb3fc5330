"""The engine of the service with a small model: its answers are the offline ones, to the last bit."""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
import json
import random

from flax import nnx
import jax
import numpy as np
import pytest

from recjax import models
from recjax.data.requests import Request
from recjax.recommend import Recommender, make_ranker
from recjax.schema.run import Mesh
from recjax.serve import wire
from recjax.serve.engine import Engine
from recjax.serve.metrics import Metrics
from recjax.sharding import mesh as mesh_lib
from tests.recjax.decode import tomorrow


@pytest.fixture(scope='module')
def parts(rated, tmp_path_factory):
  """The config and the data of a small run, its parameters, and a folder of masks."""
  config, dataset = rated
  config = dataclasses.replace(
    config,
    mixture={'next_item': config.mixture['next_item']},
    model=dataclasses.replace(config.model, depth=1, width=16, ff_width=32, head_width=8),
    eval=dataclasses.replace(config.eval, batch_size=16, ks=(10,), beams=12),
  )
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  masks = tmp_path_factory.mktemp('masks')
  (masks / 'even.txt').write_text(''.join(f'i{n:02}\n' for n in range(0, 24, 2)))
  (masks / 'third.txt').write_text(''.join(f'i{n:02}\n' for n in range(0, 24, 3)))
  return config, dataset, params, masks


@pytest.fixture(scope='module')
def world(parts):
  config, dataset, params, masks = parts
  mesh = mesh_lib.make_mesh(config.mesh)
  recommender = Recommender(make_ranker(config, dataset, mesh, None, 1.25, masks), params, 7)
  engine = Engine(recommender, dataset, max_wave=100, most=16, masks=masks)
  engine.warm()
  return engine, recommender, dataset


def ask(engine, *bodies):
  limits = engine.limits(100)
  queries = [query for body in bodies for query in wire.queries(body, limits)[1]]
  return engine.answer(queries)


def test_the_size_of_a_wave_is_a_power_of_two_within_its_budget(world):
  engine, recommender, dataset = world
  assert engine.size(12) == 8
  assert [engine.size(beams) for beams in (1, 6, 50, 100, 1000)] == [16, 16, 2, 1, 1]
  assert Engine(recommender, dataset, 100, 16, (12, 24)).beams == (12, 24)


def test_an_answer_is_the_offline_one_whatever_its_wave(world):
  engine, recommender, dataset = world
  ids = [item['id'] for item in dataset.items]
  rng = np.random.default_rng(0)
  bodies = [
    {
      'history': [str(each) for each in rng.choice(ids, rng.integers(1, 9))],
      'k': int(rng.integers(1, 13)),
      'within': [None, 'even', 'even & ~third', ids[3:20]][n % 4],
      'exclude': [str(each) for each in rng.choice(ids, n % 3)],
    }
    for n in range(32)
  ]  # fmt: skip
  waves = [recommender.answer([Request(**body)] * 8) for body in bodies]
  expected = [wave[0].recommendations for wave in waves]
  order = list(range(32))
  for seed, size in enumerate((1, 3, 7, 8)):
    random.Random(seed).shuffle(order)
    for start in range(0, 32, size):
      rows = order[start : start + size]
      for n, fields in zip(rows, ask(engine, *(bodies[n] for n in rows)), strict=True):
        assert fields['recommendations'] == [each._asdict() for each in expected[n]]
        assert fields['catalogue'] == engine.view.version
  ranker = recommender._waves.ranker(12)
  assert ranker._search._cache_size() == 1  # nothing was compiled after the warm-up


def test_candidates_have_the_scores_of_the_search(world):
  engine, recommender, _ = world
  [searched] = ask(engine, {'history': ['i03', 'i01'], 'k': 12})
  scores = {each['item']: each['score'] for each in searched['recommendations']}
  ids = random.Random(0).sample(sorted(scores), 9)
  body = {'history': ['i03', 'i01'], 'candidates': [*ids, ids[0]]}
  [answer] = ask(engine, body)
  got = {each['item']: each['score'] for each in answer['recommendations']}
  assert list(got) == [id for id in scores if id in ids]  # the best first
  assert list(got.values()) == pytest.approx([scores[id] for id in got], abs=1e-5)
  [inside] = ask(engine, body | {'within': 'even', 'k': 2})
  kept = [each for each in answer['recommendations'] if int(each['item'][1:]) % 2 == 0]
  assert inside['recommendations'] == kept[:2]
  score = recommender._ranker._given._scores
  assert score._cache_size() == 1
  [refused] = ask(engine, body | {'candidates': ['i03', 'gone']})
  assert refused.status == 400 and "'gone' is not" in refused.fields['error']
  assert score._cache_size() == 1  # nothing was compiled after the warm-up


def test_a_mask_keeps_the_items_of_all_lists_within(world):
  engine, _, _ = world
  limit = {'within': 'even & third', 'k': 12, 'explain': True}
  found, popular, nothing, wrong = ask(
    engine,
    {'history': ['i03', 'i01']} | limit,
    {'history': []} | limit,
    {'history': ['i03']} | limit | {'within': 'even & ~even'},
    {'history': ['i03']} | limit | {'within': 'evn'},
  )
  allowed = {f'i{n:02}' for n in range(0, 24, 6)}
  assert {each['item'] for each in found['recommendations']} == allowed
  assert {each['item'] for each in found['one_hop']} <= allowed
  assert {each['item'] for each in popular['recommendations']} == allowed
  assert 'sub-catalogue' in popular['note']
  assert nothing.status == 400 and 'within' in nothing.fields['error']
  assert wrong.status == 400 and 'evn' in wrong.fields['error']
  assert engine.describe()['masks'] == ['even', 'third']


def test_a_request_that_leaves_no_item_says_so(world):
  engine, _, _ = world
  seen, none, left = ask(
    engine,
    {'history': ['i02', 'i04'], 'within': ['i02', 'i04']},
    {'history': ['i03'], 'within': ['i02'], 'exclude': ['i02', 'i02', 'gone']},
    {'history': ['i03'], 'within': ['i02', 'i05'], 'exclude': ['i02']},
  )
  assert seen['recommendations'] == [] and 'no item is left' in seen['note']
  assert none.status == 400 and 'exclude must leave at least one item' in none.fields['error']
  assert [each['item'] for each in left['recommendations']] == ['i05'] and 'note' not in left
  [closed] = ask(engine, {'history': ['i03'], 'candidates': ['i02'], 'exclude': ['i02']})
  assert closed['recommendations'] == [] and 'no item is left' in closed['note']


def test_an_empty_history_gives_the_popular_items_and_says_so(world):
  engine, _, dataset = world
  counts_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
  order = np.argsort(-counts_I, kind='stable')
  [answer] = ask(engine, {'history': [], 'k': 3, 'exclude': [dataset.items[order[1]]['id']]})
  best = [dataset.items[i]['id'] for i in order[[0, 2, 3]]]
  assert [each['item'] for each in answer['recommendations']] == best
  assert 'most popular' in answer['note']


def test_unknown_items_are_listed(world):
  engine, _, _ = world
  gone = [f'gone{n}' for n in range(30)]
  refused, answer = ask(
    engine, [{'history': ['i03', *gone]}, {'history': ['i03', 'new'], 'unknown': 'skip'}]
  )
  assert isinstance(refused, wire.Refused) and refused.status == 400
  assert refused.fields['unknown'] == gone
  message = refused.fields['error']
  assert message.startswith('request 0: every item of the history must be in the catalogue; ')
  assert "'gone19' and 10 more are not" in message
  assert answer['unknown'] == ['new']
  [alone] = ask(engine, {'history': ['i03']})
  assert answer['recommendations'] == alone['recommendations']


def test_an_explanation_has_the_sid_path_and_the_counted_items(world):
  engine, _, dataset = world
  [answer] = ask(engine, {'history': ['i03', 'i01'], 'k': 4, 'explain': True, 'exclude': ['i05']})
  words = {entry['token']: entry['keywords'] for entry in dataset.keywords}
  index = {item['id']: i for i, item in enumerate(dataset.items)}
  for each in answer['recommendations']:
    codes = dataset.sids.codes_IL[index[each['item']]].tolist()
    names = [f'<{"abc"[level]}_{code}>' for level, code in enumerate(codes)]
    assert [part['code'] for part in each['sid']] == names
    assert all(part['keywords'] == words.get(part['code'], [])[:3] for part in each['sid'])
  assert any(part['keywords'] for each in answer['recommendations'] for part in each['sid'])
  counted = [each['item'] for each in answer['one_hop']]
  assert 1 <= len(counted) <= 4 and not {'i03', 'i01', 'i05'} & set(counted)
  assert json.loads(wire.encode(answer)) == answer


def test_a_swap_answers_from_the_new_catalogue_and_a_roll_back_from_the_old_one(world, tmp_path):
  engine, recommender, dataset = world
  folder = tmp_path / 'tomorrow'
  tomorrow.prepared(dataset, folder)
  body = {'history': ['i03', 'i01'], 'k': 12, 'explain': True}
  [before] = ask(engine, body)
  ranker = recommender._ranker
  engine.take(engine.load(str(folder)))
  catalogue = recommender.catalogue
  known = [id for id in ('i03', 'i01') if id in catalogue.index]
  [after] = ask(engine, body | {'history': [*known, 'new2']})
  assert after['catalogue'] == catalogue.version != before['catalogue']
  wave = [Request(history=[*known, 'new2'], k=12)] * 8
  expected = recommender.answer(wave, size=8)[0].recommendations
  got = [{name: each[name] for name in ('item', 'title', 'score')} for each in after['recommendations']]  # fmt: skip
  assert got == [each._asdict() for each in expected]
  assert {each['item'] for each in after['recommendations'] + after['one_hop']} <= set(
    catalogue.index
  )
  for each in after['recommendations']:
    codes = catalogue.dataset.sids.codes_IL[catalogue.index[each['item']]].tolist()
    assert [part['code'] for part in each['sid']] == [
      f'<{"abc"[n]}_{code}>' for n, code in enumerate(codes)
    ]
  assert engine.view.search('new 3', 5) == [{'item': 'new3', 'title': 'New 3'}]
  assert engine.describe()['earlier'] == before['catalogue']
  engine.roll_back()
  assert ask(engine, body) == [before]
  [refused] = ask(engine, {'history': ['new2']})
  assert refused.fields['unknown'] == ['new2']
  assert ranker._search._cache_size() == 1  # nothing was compiled
  with pytest.raises(ValueError, match='no stage interactions'):
    engine.load(str(tmp_path))
  with pytest.raises(OSError, match='nowhere'):
    engine.load(str(tmp_path / 'nowhere'))
  for wrong in ('s3://x/y', 'what://x/y'):  # no library, no such protocol
    with pytest.raises(OSError, match=f'must be a folder that can be read; got {wrong}: '):
      engine.load(wrong)
    with pytest.raises(OSError, match=f'--masks must be a folder that can be read; got {wrong}: '):
      engine.load(str(folder), wrong)
  (folder / 'sids' / 'codes.npy').write_bytes(b'')  # as while it is written
  with pytest.raises(
    ValueError, match='must hold a whole prepared catalogue; No data left in file'
  ):
    engine.load(str(folder))
  fresh = Engine(recommender, dataset, 100, 16)
  with pytest.raises(ValueError, match='needs an earlier catalogue'):
    fresh.roll_back()


@pytest.mark.soak
def test_kept_prompts_and_small_waves_have_the_same_answers(parts, world, tmp_path):
  config, dataset, params, masks = parts
  engine, _, _ = world
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  ranker = make_ranker(config, dataset, mesh, None, 1.25, masks)
  with pytest.raises(ValueError, match='must hold the prompts of one wave, 2 requests: at least'):
    limit = 2 * ranker.keep_prompts(2**20).num_bytes // (ranker.kept.slots + 1)
    Engine(Recommender(ranker, params, 7), dataset, 24, 16, keep_prompts=limit)
  fast = Engine(
    Recommender(ranker, params, 7), dataset, 24, 16, masks=masks, warms=True, keep_prompts=2**20
  )
  fast.warm()
  programs = (ranker._search, ranker.kept._write)
  compiled = [program._cache_size() for program in programs]
  metrics = Metrics()
  metrics.add_prompts(fast.prompts)

  def check(*bodies):
    for found, expected in zip(ask(fast, *bodies), ask(engine, *bodies), strict=True):
      scores = [[each.pop('score') for each in x['recommendations']] for x in (found, expected)]
      np.testing.assert_allclose(*scores, atol=1e-5)
      assert found == expected

  def counted():
    lines = [
      line.rpartition(' ') for line in metrics.text().decode().splitlines() if line[0] != '#'
    ]
    values = {name: float(value) for name, _, value in lines}
    results = [values[f'recjax_prompts_total{{result="{x}"}}'] for x in ('hit', 'extended', 'miss')]
    for kind, seconds in (('extended', results[1]), ('miss', results[2])):
      assert bool(values[f'recjax_prompt_seconds_total{{result="{kind}"}}']) == bool(seconds)
    assert values['recjax_prompt_slots'] == fast.prompts.slots
    return results

  history = [f'i{n:02}' for n in (3, 1, 4, 15, 9)]
  assert counted() == [0, 0, 0]
  for n in range(1, 6):
    check({'history': history[:n], 'k': 12, 'within': 'even'}, {'history': history[:n]})
  hits, extended, misses = counted()
  # Both requests of a wave have the same prompt, and those of the first items may be too short to be kept.
  assert hits + extended + misses == 10 and hits >= 4 and extended >= 3 and misses <= 3
  check({'history': history, 'k': 3, 'exclude': ['i02']})
  assert counted() == [hits + 1, extended, misses]
  folder = tmp_path / 'tomorrow'
  tomorrow.prepared(dataset, folder)
  body = {'history': ['i03', 'i01'], 'k': 12, 'unknown': 'skip'}
  for change in (lambda each: each.take(each.load(str(folder))), lambda each: each.roll_back()):
    change(fast)
    change(engine)
    check(body)  # the store was emptied
  assert counted()[2] == misses + 2
  with ThreadPoolExecutor(4) as threads:
    bodies = [{'history': history[:n]} for n in (1, 2, 3, 4, 5)] * 4
    found = list(threads.map(lambda body: ask(fast, body)[0], bodies))
  expected = [ask(fast, body)[0] for body in bodies]
  for a, b in zip(found, expected, strict=True):
    assert [x['item'] for x in a['recommendations']] == [x['item'] for x in b['recommendations']]
  assert [program._cache_size() for program in programs] == compiled  # all by the warm-up
