"""recommend.py of an export ranks as recjax does; only where torch and transformers are installed."""

import json
import subprocess
import sys

import pytest

from recjax.recommend import Recommender, make_ranker
from recjax.sharding import mesh as mesh_lib
from tests.live import needs_transformers
from tests.recjax.workdir.export import exports

pytestmark = needs_transformers


def assert_same_recommendations(folder, config, dataset, atol=2e-4, script='recommend.py'):
  params = exports.write(folder / 'out', config, dataset)
  ours, theirs = exports.recommended(folder, config, dataset, params), folder / 'theirs.jsonl'
  command = [sys.executable, folder / 'out' / script, '--skip_unknown', f'--k={config.eval.beams}']
  done = subprocess.run(
    [*command, f'--histories={folder / "h.jsonl"}', f'--out={theirs}'],
    cwd=folder, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  exports.assert_same(ours, list(map(json.loads, theirs.read_text().splitlines())), atol)


@pytest.mark.parametrize(
  'kind', ['gemma1', 'gemma2', 'gemma3', 'llama3', 'qwen2', 'qwen3', 'qwen3_5', 't5_v1_0', 'mt5']
)
def test_every_family_ranks_alike(tmp_path, kind):
  # The norm inside linear attention enlarges rounding errors, in transformers too.
  atol = 1e-3 if kind == 'qwen3_5' else 2e-4
  assert_same_recommendations(tmp_path, *exports.pretrained(tmp_path, kind, kind == 'qwen3'), atol)


@pytest.mark.parametrize(
  ('family', 'fields'),
  [
    ('gemma', {'show': 'both'}),
    ('gemma', {'learn': 'both'}),  # windows show titles
    ('t5', {'show': 'sid'}),
    ('t5', {'show': 'both', 'learn': 'both'}),
  ],
)
def test_a_run_from_scratch_ranks_alike_with_notes_titles_and_shared_sids(tmp_path, family, fields):
  events = family == 'gemma'
  config, dataset = exports.rated(family, gaps=True, events=events, **fields)
  config = exports.with_(config, 'eval', shared_sids='first' if 'learn' in fields else 'all')
  assert_same_recommendations(tmp_path, config, dataset)


def test_the_full_softmax_and_seen_items_are_used_as_in_training(tmp_path):
  config, dataset = exports.rated('gemma', show='title')
  config = exports.with_(config, 'model', sid_softmax='full')
  config = exports.with_(config, 'eval', exclude_seen=False, beams=11)
  assert_same_recommendations(tmp_path, config, dataset)


@pytest.mark.parametrize(('family', 'shown'), [('gemma', True), ('t5', False)])
def test_only_targets_count_as_seen_where_views_are_context(tmp_path, family, shown):
  config, dataset = exports.rated(family, context=('view',), events=shown, gaps=shown)
  assert_same_recommendations(tmp_path, config, dataset)
  rows = [json.loads(line) for line in (tmp_path / 'theirs.jsonl').read_text().splitlines()]
  is_again = [
    {r['item'] for r in row['recommendations']} & set(row['history']) != set() for row in rows
  ]
  assert any(is_again)
  assert not any(again for row, again in zip(rows, is_again, strict=True) if 'events' not in row)


def test_a_wrong_column_is_named(tmp_path):
  config, dataset = exports.rated(context=('view',), gaps=True)
  exports.write(tmp_path / 'out', config, dataset)
  recommender = exports.module(tmp_path / 'out' / 'recommend.py').Recommender
  recommender = recommender(tmp_path / 'out')
  assert recommender.columns == ['times', 'events']
  for columns, message in (
    ({'events': ['buy', 'sold']}, "^history 0: every event must be one of buy, view; got 'sold'$"),
    ({'events': ['buy']}, 'events must be a list with one value per item of the history'),
    ({'times': [1, None]}, 'times must be numbers of seconds'),
  ):
    columns = {name: [values] for name, values in columns.items()}
    with pytest.raises(ValueError, match=message):
      recommender.recommend([['i00', 'i01']], k=1, **columns)


@pytest.mark.parametrize(
  'kind', ['gemma2', 'gemma3', 'llama3', 'qwen3', 'qwen3_5', 't5_v1_0', 'mt5']
)
def test_generate_gives_the_same_items(tmp_path, kind):
  atol = 1e-3 if kind == 'qwen3_5' else 2e-4
  config, dataset = exports.pretrained(tmp_path, kind, kind == 'qwen3')
  assert_same_recommendations(tmp_path, config, dataset, atol, 'generate.py')


@pytest.mark.parametrize(
  ('family', 'softmax'), [('gemma', 'level'), ('gemma', 'full'), ('t5', 'full')]
)
def test_generate_gives_the_same_items_with_notes_shared_sids_and_narrow_beams(
  tmp_path, family, softmax
):
  config, dataset = exports.rated(family, gaps=True, show='both')
  config = exports.with_(exports.with_(config, 'model', sid_softmax=softmax), 'eval', beams=11)
  assert_same_recommendations(tmp_path, config, dataset, 2e-4, 'generate.py')
  # generate of transformers alone normalises over the whole vocabulary: equal only if the training did.
  sys.modules['recommend'] = exports.module(tmp_path / 'out' / 'recommend.py')
  try:
    recommender = exports.module(tmp_path / 'out' / 'generate.py').Recommender
  finally:
    del sys.modules['recommend']
  plain, exact = (
    recommender(tmp_path / 'out', softmax=name).recommend([['i03', 'i09']], 5)[0]
    for name in ('full', None)
  )
  is_same = [item['score'] for item in plain] == [item['score'] for item in exact]
  assert is_same == (softmax == 'full')


def test_generate_survives_beams_without_a_continuation(tmp_path):
  config, dataset = exports.rated('gemma')
  config = exports.with_(config, 'eval', beams=11)
  params = exports.write(tmp_path / 'out', config, dataset)
  folder, items = tmp_path / 'out', [item['id'] for item in dataset.items]
  sys.modules['recommend'] = exports.module(folder / 'recommend.py')
  try:
    recommender = exports.module(folder / 'generate.py').Recommender(folder)
  finally:
    del sys.modules['recommend']
  histories = [
    items[:-1],
    items,
    items[1:],
  ]  # one item is left, none, and one of a shared semantic ID
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  ours = Recommender(ranker, params, 0).recommend(histories)
  theirs = recommender.recommend(histories, 10)
  assert [[each.item for each in row] for row in ours] == [
    [r['item'] for r in row] for row in theirs
  ]
