"""An exported folder ranks as the run did, without its workdir and its data."""

import json
import shutil

import jax
import numpy as np
import pytest

from recjax.recommend import Recommender, Request, make_ranker
from recjax.schema.blend import Memory
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.export import files, loading
from tests.recjax.workdir.export import exports


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """Config, data and parameters of a run, and its export."""
  folder = tmp_path_factory.mktemp('exported')
  config, dataset = exports.rated('gemma', ('view',), gaps=True, events=True, show='both')
  config = exports.with_(config, 'model', depth=1)
  return config, dataset, exports.write(folder / 'out', config, dataset), folder / 'out'


def assert_same_prompts(config, dataset, out):
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(Mesh(), jax.devices()[:1]))
  data, prompt, _, _ = loading.read(out)
  rng = np.random.default_rng(0)
  for length in range(14):
    items = rng.integers(0, dataset.num_items, length)
    known = {
      'times': np.cumsum(rng.choice([0, 100, 90_000, 9_000_000], length)),
    }
    if dataset.event_names:
      known['events'] = rng.integers(0, len(dataset.event_names), length)
    for shown in ({}, known):
      found = prompt.inference_prompt(data, items, shown.get('times'), shown.get('events'))
      np.testing.assert_array_equal(found, ranker.prompt(items, shown))
      assert len(found) <= prompt.max_prompt_length(data)


def test_an_export_ranks_as_the_run(exported):
  config, dataset, params, out = exported
  assert_same_prompts(config, dataset, out)
  devices = mesh_lib.make_mesh(Mesh(), jax.devices()[:1])
  ours, theirs = Recommender(make_ranker(config, dataset, devices), params, 3), None
  theirs = Recommender.from_workdir(out)
  assert (theirs.beams, theirs.columns) == (ours.beams, ours.columns)
  ids = [item['id'] for item in dataset.items]
  names = dataset.event_names
  histories = [ids[3:6], [], {'history': ids[:2], 'times': [5, 90_000], 'events': names[:2]}]
  requests = [Request(history=history, k=20) for history in histories]
  requests.append(Request(history=[], k=3, within=ids[:9]))
  for a, b in zip(*(each.answer(requests) for each in (ours, theirs)), strict=True):
    a, b = a.recommendations, b.recommendations
    assert [each[:2] for each in a] == [each[:2] for each in b] and a
    assert [each.score for each in a] == pytest.approx([each.score for each in b], abs=1e-4)
  np.testing.assert_array_equal(theirs.catalogue.popularity_I, ours.catalogue.popularity_I)


def test_a_folder_whose_run_had_other_scores_says_so(exported, tmp_path, caplog):
  out = shutil.copytree(exported[-1], tmp_path / 'out')
  prompt = json.loads((out / 'prompt.json').read_text())
  assert prompt['left_out'] == []
  loading.read(out)
  del prompt['left_out']  # as in folders of earlier versions
  (out / 'prompt.json').write_text(json.dumps(prompt))
  loading.read(out)
  assert not caplog.records
  config = exports.with_(exported[0], 'eval', memory=Memory(counts='transitions'))
  names = files.other_scores(exports.with_(config, 'model', item_head=True))
  (out / 'prompt.json').write_text(json.dumps(prompt | {'left_out': names}))
  loading.read(out)
  [record] = caplog.records
  text = (
    'ranks by the codes alone: it has not the item head and the counts of the training (memory)'
  )
  assert f'{out} {text} of its run' in record.getMessage()


@pytest.mark.parametrize('kind', ['t5', 'qwen3'])
def test_prompts_of_other_families_and_of_chats_are_the_same(tmp_path, kind):
  if kind == 't5':
    config, dataset = exports.rated(kind, show='both', gaps=True)
  else:
    config, dataset = exports.pretrained(tmp_path, kind, chat=True)
  exports.write(tmp_path / 'out', config, dataset)
  assert_same_prompts(config, dataset, tmp_path / 'out')


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('items.jsonl', lambda text: text[:-9], r'items.jsonl:\d+ must be a JSON object'),
    ('items.jsonl', lambda text: '{"item": 5}\n' + text, 'items.jsonl:1 must have item, token_ids, popularity'),
    ('prompt.json', lambda text: text[:-9], 'prompt.json'),
    ('prompt.json', lambda text: json.dumps({**json.loads(text), 'beams': 'many'}), 'prompt.json'),
    ('prompt.json', lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != 'gaps'}),
     r"prompt.json must have the fields that --mode=export writes; it lacks \['gaps'\]"),
  ],
)  # fmt: skip
def test_a_damaged_export_is_named(exported, tmp_path, name, change, message):
  shutil.copytree(exported[3], tmp_path / 'out')
  file = tmp_path / 'out' / name
  file.write_text(change(file.read_text()))
  with pytest.raises(ValueError, match=message):
    Recommender.from_workdir(tmp_path / 'out')


def test_an_export_has_its_own_items(exported):
  with pytest.raises(ValueError, match='leave prepared_dir and room out'):
    Recommender.from_workdir(exported[3], prepared_dir='data')
