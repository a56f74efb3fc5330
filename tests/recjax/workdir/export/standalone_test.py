"""recommend.py of an export ranks as recjax does; only where torch and transformers are installed."""

import json
import runpy
import subprocess
import sys

import numpy as np
import pytest

from recjax.recommend import Recommender, make_ranker
from recjax.sharding import mesh as mesh_lib
from tests.live import needs_transformers
from tests.recjax.workdir.export import exports

pytestmark = needs_transformers


def write_histories(path, dataset, seed=0):
  """Writes histories of every length from none on, with repeats, times, kinds of interactions and extra keys."""
  rng = np.random.default_rng(seed)
  names = dataset.event_names or ['view']
  with path.open('w') as f:
    for n in range(20):
      items = rng.integers(0, dataset.num_items, n % 11).tolist()
      row = {'user': n, 'history': [dataset.items[i]['id'] for i in items]}
      if n % 3 == 1:
        row['events'] = rng.choice(names, len(items)).tolist()
      if n % 3 == 2:
        row['times'] = np.cumsum(rng.choice([0, 100, 90_000, 9_000_000], len(items))).tolist()
        row['events'] = rng.choice(names, len(items)).tolist()
      f.write(json.dumps(row) + '\n')
    more = {'events': [names[-1], names[0]], 'times': [0, 5.5]}
    f.write(json.dumps({'history': ['gone', dataset.items[1]['id']]} | more) + '\n')


def assert_same_recommendations(folder, config, dataset, atol=2e-4):
  params = exports.write(folder / 'out', config, dataset)
  histories, ours, theirs = (folder / name for name in ('h.jsonl', 'ours.jsonl', 'theirs.jsonl'))
  write_histories(histories, dataset)
  mesh, k = mesh_lib.make_mesh(config.mesh), config.eval.beams
  recommender = Recommender(make_ranker(config, dataset, mesh), params, 0)
  recommender.recommend_file(histories, ours, k, skip_unknown=True)
  command = [sys.executable, folder / 'out' / 'recommend.py', '--skip_unknown', f'--k={k}']
  done = subprocess.run(
    [*command, f'--histories={histories}', f'--out={theirs}'],
    cwd=folder, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  ours, theirs = (list(map(json.loads, path.read_text().splitlines())) for path in (ours, theirs))
  assert len(ours) == len(theirs) == 21
  for a, b in zip(ours, theirs, strict=True):
    assert a['recommendations']
    scores = [[r.pop('score') for r in row['recommendations']] for row in (a, b)]
    assert a == b
    np.testing.assert_allclose(*scores, atol=atol)


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
  config, dataset = exports.rated(tmp_path, family, gaps=True, events=events, **fields)
  config = exports.with_(config, 'eval', shared_sids='first' if 'learn' in fields else 'all')
  assert_same_recommendations(tmp_path, config, dataset)


def test_the_full_softmax_and_seen_items_are_used_as_in_training(tmp_path):
  config, dataset = exports.rated(tmp_path, 'gemma', show='title')
  config = exports.with_(config, 'model', sid_softmax='full')
  config = exports.with_(config, 'eval', exclude_seen=False, beams=11)
  assert_same_recommendations(tmp_path, config, dataset)


@pytest.mark.parametrize(('family', 'shown'), [('gemma', True), ('t5', False)])
def test_only_targets_count_as_seen_where_views_are_context(tmp_path, family, shown):
  config, dataset = exports.rated(tmp_path, family, context=('view',), events=shown, gaps=shown)
  assert_same_recommendations(tmp_path, config, dataset)
  rows = [json.loads(line) for line in (tmp_path / 'theirs.jsonl').read_text().splitlines()]
  is_again = [
    {r['item'] for r in row['recommendations']} & set(row['history']) != set() for row in rows
  ]
  assert any(is_again)
  assert not any(again for row, again in zip(rows, is_again, strict=True) if 'events' not in row)


def test_a_wrong_column_is_named(tmp_path):
  config, dataset = exports.rated(tmp_path, context=('view',), gaps=True)
  exports.write(tmp_path / 'out', config, dataset)
  recommender = runpy.run_path(str(tmp_path / 'out' / 'recommend.py'))['Recommender']
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
