"""All stages on a small random log: skips, kills, dependencies, and no leak of held-out items."""

import concurrent.futures
import contextlib
import gzip
import json
import os
import pickle
import signal
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from data_prep import files, prepare
from data_prep.relations import collaborative, semantic_neighbours
from recjax import config as config_lib
from recjax import train
from recjax.data import dataset, loader, plan
from recjax.data import prepared as prepared_lib
from recjax.runtime import lock
from recjax.schema.stream import Packing
from recjax.sids.quantizers.saved import Quantizer
from tests.folders import ROOT, contents

USERS, ITEMS, LENGTH = 60, 50, 8
STAGES = ['interactions', 'tokenizer', 'texts', 'text_embeddings', 'cooccurrence_vectors', 'sids']
NEIGHBOURS = ('collaborative_neighbours', 'semantic_neighbours')
WORDS = ('red', 'blue', 'green', 'soap', 'brush', 'oil', 'dry', 'soft', 'night', 'day')


def random_rows(seed=0):
  """Returns rows in order of time; every item occurs in some user's training part."""
  rng = np.random.default_rng(seed)
  items = rng.integers(0, ITEMS, (USERS, LENGTH))
  items[:, 0] = np.arange(USERS) % ITEMS
  return [
    {'reviewerID': f'u{u:03}', 'asin': f'i{items[u, t]:03}', 'unixReviewTime': 100 * t}
    for t in range(LENGTH)
    for u in range(USERS)
  ]


def write_raw(folder, rows):
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(1)
  meta = [{'asin': f'i{n:03}', 'title': ' '.join(rng.choice(WORDS, 4))} for n in range(ITEMS)]
  for name, objects in (('reviews_X_5', rows), ('meta_X', meta[1:])):
    lines = ''.join(json.dumps(row) + '\n' for row in objects)
    # mtime=0: gzip files otherwise hold the time of writing.
    (folder / f'{name}.json.gz').write_bytes(gzip.compress(lines.encode(), mtime=0))


def make_config(tmp_path, data=None, sids=None, out='out', tasks=(), relations=None):
  config = config_lib.defaults(source='amazon2014', name='x')
  config.data.update(
    category='X', k_core=0, raw_dir=str(tmp_path / 'raw'), prepared_dir=str(tmp_path / out)
  )
  config.data.update({'text_pieces': 320} | (data or {}))
  config.sids.update(encoder='tfidf', codes=(8, 8), tfidf_width=6, cooccurrence_width=4)
  config.sids.update(sids or {})
  config.relations.update(relations or {})
  for task in tasks:
    config.mixture[task] = config_lib.component(task)
  return config_lib.from_config_dict(config)


def outcomes(capsys):
  """Returns done or skipped for every stage, from the printed lines."""
  lines = [line.split(': ') for line in capsys.readouterr().out.splitlines()]
  return {name: rest[0].split()[0].rstrip(',') for name, *rest in lines}


def test_a_prepared_data_set_loads_and_its_stages_are_then_skipped(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path)
  assert not prepare.find(config)
  assert not (tmp_path / 'out').exists()
  root = prepare.prepare(config)
  out = capsys.readouterr().out
  assert '60 users / 50 items / 480 interactions' in out
  assert sorted(os.listdir(root)) == sorted(STAGES)
  assert prepare.find(config)

  loaded = dataset.Dataset.load(root)
  assert loaded.num_users == USERS
  assert loaded.num_items == ITEMS
  assert loaded.sids.levels == 3
  assert len(np.unique(loaded.sids.codes_IL, axis=0)) == ITEMS
  assert [item['id'] for item in loaded.items] == [f'i{n:03}' for n in range(ITEMS)]
  assert loaded.items[0]['text'] == ''  # has no metadata
  rows = random_rows()
  for u in range(USERS):
    expected = [int(row['asin'][1:]) for row in rows if row['reviewerID'] == f'u{u:03}']
    assert loaded.train[u].tolist() == expected[:-2]
    assert [loaded.validation_items[u], loaded.test_items[u]] == expected[-2:]
  quantizer = Quantizer.load(root / 'sids')
  assert quantizer.width == 6 + 4
  assert [book.shape for book in quantizer.codebooks] == [(8, 6 + 4)] * 2

  before = contents(root)
  prepare.prepare(config)
  assert outcomes(capsys) == dict.fromkeys(STAGES, 'skipped')
  assert contents(root) == before
  prepare.prepare(make_config(tmp_path, out='again'))
  assert contents(tmp_path / 'again') == before


def test_codes_are_chosen_from_the_catalogue_and_wrong_ones_fail_right_after_the_log(
  tmp_path, capsys
):
  write_raw(tmp_path / 'raw', random_rows())
  with pytest.raises(
    ValueError, match=r'more codes than the catalogue has items \(50\); got \(8, 64\)'
  ):
    prepare.prepare(make_config(tmp_path, sids={'codes': (8, 64)}))
  assert os.listdir(tmp_path / 'out') == ['interactions']
  config = make_config(tmp_path, sids={'codes': ()})
  prepare.prepare(make_config(tmp_path, sids={'codes': (16, 16)}))  # which 50 items get
  capsys.readouterr()
  prepare.prepare(config)
  assert outcomes(capsys) == dict.fromkeys(STAGES, 'skipped')
  prepare.prepare(make_config(tmp_path, sids={'codes': (4, 4)}))
  prepare.prepare(config)
  number = make_config(tmp_path, sids={'codes': (16, 16)})  # as in a workdir's config.json
  assert number.prepared.folders == config.prepared.folders
  extended = make_config(
    tmp_path, sids={'codes': (), 'extend': str(number.prepared / 'sids')}, out='next'
  )
  assert dataset.Dataset.load(prepare.prepare(extended)).sids.codes_per_level[:2] == (16, 16)


@pytest.mark.parametrize(
  ('data', 'sids', 'again'),
  [
    ({'max_text_tokens': 2}, {}, {'texts'}),
    ({'text_pieces': 280}, {}, {'tokenizer', 'texts'}),
    ({}, {'codes': (4, 4)}, {'sids'}),
    ({}, {'tfidf_width': 5}, {'text_embeddings', 'sids'}),
    ({}, {'cooccurrence_window': 2}, {'cooccurrence_vectors', 'sids'}),
    ({}, {'source': 'text'}, {'sids'}),
    ({}, {'source': 'cooccurrence'}, {'sids'}),
  ],
)
def test_only_stages_that_depend_on_a_change_run_again_as_variants(
  tmp_path, capsys, data, sids, again
):
  write_raw(tmp_path / 'raw', random_rows())
  first, changed = make_config(tmp_path), make_config(tmp_path, data, sids)
  root = prepare.prepare(first)
  before = contents(root)
  capsys.readouterr()
  assert prepare.find(changed) is None
  other = prepare.prepare(changed)
  assert {name for name, outcome in outcomes(capsys).items() if outcome == 'done'} == again
  assert prepare.find(changed) == other
  assert {name for name in other.folders if other / name != root / name} == again
  # The folders of the first config are unchanged and are found.
  after = contents(root)
  assert {name: after[name] for name in before} == before
  assert prepare.find(first) == root
  prepare.prepare(first)
  assert 'done' not in capsys.readouterr().out
  # `config.prepared` finds the folders of both configs.
  assert (first.prepared, changed.prepared) == (root, other)
  # The variants have the same files as a separate preparation.
  alone = prepare.prepare(make_config(tmp_path, data, sids, out='alone'))
  for name in other.folders:
    assert contents(other / name) == contents(alone / name)
  held = dataset.Dataset.load(other)
  assert held.sids.codes_per_level == dataset.Dataset.load(alone).sids.codes_per_level
  assert pickle.loads(pickle.dumps(held)).folder == other


def test_training_data_do_not_depend_on_held_out_interactions(tmp_path, capsys):
  rows = random_rows()
  write_raw(tmp_path / 'raw', rows)
  # The config needs every stage.
  config = make_config(tmp_path, tasks=NEIGHBOURS)
  prepare.prepare(config)
  before = contents(tmp_path / 'out')
  rng = np.random.default_rng(2)
  for row in rows[-2 * USERS :]:  # the last two of every user
    row['asin'] = f'i{rng.integers(ITEMS):03}'
  write_raw(tmp_path / 'raw', rows)
  capsys.readouterr()
  after = prepare.prepare(config)
  # In the same folder only the log runs again. A new folder runs all stages:
  assert outcomes(capsys) == dict.fromkeys([*STAGES, 'relations'], 'skipped') | {
    'interactions': 'done'
  }
  from_scratch = prepare.prepare(make_config(tmp_path, out='swapped', tasks=NEIGHBOURS))
  swapped = contents(tmp_path / 'swapped')
  assert swapped.keys() == before.keys()
  held_out = {f'interactions/{split}_items.npy' for split in ('validation', 'test')}
  changed = {name for name in before if before[name] != swapped[name]}
  assert changed - {'interactions/statistics.json'} == held_out | {
    'interactions/manifest.json',
    'interactions/tfds/sequences/1.0.0/sequences-train.array_record-00000-of-00001',
  }
  # The training data are equal: fingerprint and rows.
  streams = []
  for prepared in (tmp_path / 'out', after, from_scratch):
    data = dataset.Dataset.load(prepared)
    mix = train.make_mixture(config, data)
    sizes = plan.make_plan(mix, Packing(row_length=128, rows=4))
    stream = loader.Stream(mix, sizes, groups=2)
    rows = stream.host_batch(0, 0, 1)
    streams.append(
      (loader.fingerprint(stream, config.mixing), {k: v.tobytes() for k, v in rows.items()})
    )
  assert streams[0] == streams[1] == streams[2]


@pytest.mark.parametrize(
  ('tasks', 'relations', 'stage', 'lists'),
  [
    ((), {}, None, ()),
    (NEIGHBOURS[1:], {}, {'text_embeddings'}, ('semantic',)),
    (NEIGHBOURS[:1], {'backfill': False}, {'interactions'}, ('collaborative',)),
    (NEIGHBOURS[:1], {}, {'interactions', 'text_embeddings'}, ('collaborative', 'semantic')),
  ],
)
def test_relations_are_prepared_only_if_a_task_needs_them(tmp_path, tasks, relations, stage, lists):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path, sids={'source': 'cooccurrence'}, tasks=tasks, relations=relations)
  root = prepare.prepare(config)
  assert prepare.find(config)
  assert (root / 'text_embeddings').exists() == ('semantic' in lists)
  loaded = dataset.Dataset.load(root)
  for name in ('collaborative', 'semantic'):
    relation = getattr(loaded, name)
    if name not in lists:
      assert relation is None
    else:
      assert len(relation) == ITEMS and relation.lengths.max() == 10
      assert relation.values.dtype == np.int32
  if stage is not None:
    assert {name.split('/')[0] for name in loaded.manifest('relations')['inputs']} == stage


def test_a_change_of_relations_runs_only_that_stage(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  prepare.prepare(make_config(tmp_path, tasks=NEIGHBOURS))
  for change in (
    {'window': 2},
    {'top_k': 7},
    {'backfill_depth': 30},
    {'hops': 2},
    {'backfill': False},
  ):
    capsys.readouterr()
    prepare.prepare(make_config(tmp_path, tasks=NEIGHBOURS, relations=change))
    ran = {name for name, outcome in outcomes(capsys).items() if outcome == 'done'}
    assert ran == {'relations'}
  before = contents(tmp_path / 'out')
  with pytest.raises(
    ValueError, match=r'number of items, 50; got 50\. Set --config\.relations\.top_k'
  ):
    prepare.prepare(make_config(tmp_path, tasks=NEIGHBOURS, relations={'top_k': 50}))
  assert contents(tmp_path / 'out') == before


def test_the_back_fill_walks_as_many_semantic_neighbours_as_asked(tmp_path):
  write_raw(tmp_path / 'raw', random_rows())
  for depth in (1, 5, 500):  # 500: all other items
    fields = {'top_k': 3, 'backfill_depth': depth, 'min_count': 3.0}
    config = make_config(tmp_path, tasks=NEIGHBOURS, relations=fields)
    root = prepare.prepare(config)
    loaded = dataset.Dataset.load(root)
    near = semantic_neighbours.semantic(
      files.load(root / files.TEXT_VECTORS), min(depth, ITEMS - 1)
    )
    direct = collaborative.collaborative(loaded.train, ITEMS, config.relations)
    filled = {i: row.tolist() for i, row in enumerate(map(direct.items.__getitem__, range(ITEMS)))}
    for i, row in filled.items():
      members = [j for s in near.items[i].tolist() for j in filled[s]]
      row += [j for j in dict.fromkeys(members) if j not in row and j != i][: 3 - len(row)]
    assert [loaded.collaborative[i].tolist() for i in range(ITEMS)] == list(filled.values())
    assert loaded.semantic.lengths.max() == 3
  lengths = loaded.collaborative.lengths
  assert lengths.min() == 3 > direct.items.lengths.min()


def test_fields_that_earlier_versions_lacked_do_not_change_the_identity_of_old_data(tmp_path):
  config = make_config(tmp_path, tasks=NEIGHBOURS, sids={'quantizer': 'rqvae'})
  found = config.preparation
  assert not {'backfill_depth'} & found['relations'].keys()
  assert not {'text_format', 'description_chars', 'events'} & found['data'].keys()
  changed = make_config(
    tmp_path,
    {'text_format': '{title}', 'description_chars': 200},
    tasks=NEIGHBOURS,
    relations={'backfill_depth': 500},
  ).preparation
  assert changed['relations']['backfill_depth'] == 500
  assert changed['data']['text_format'] == '{title}'


def test_the_engine_does_not_identify_data_and_must_be_installed(tmp_path, monkeypatch):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path)
  beam = make_config(tmp_path, {'engine': 'beam', 'beam_options': '--runner=FlinkRunner'})
  assert beam.preparation == config.preparation
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  for run in (prepare.prepare, prepare.prepare_log):
    with pytest.raises(ValueError, match=r'needs Apache Beam, which `make beam` installs'):
      run(beam)
  prepare.prepare_log(config)
  prepare.prepare_log(beam)  # the log is there: no engine is needed
  with pytest.raises(ValueError, match=r"data\.beam_options must be '' for data\.engine='local'"):
    make_config(tmp_path, {'beam_options': '--runner=FlinkRunner'})


def test_prepared_data_are_found_without_the_raw_files(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path)
  prepare.prepare(config)
  for path in (tmp_path / 'raw').iterdir():
    path.unlink()
  assert prepare.find(config)
  prepare.prepare(config)
  with pytest.raises(FileNotFoundError, match=r'reviews_X_5\.json\.gz.*--config\.data\.raw_dir'):
    prepare.prepare(make_config(tmp_path, {'k_core': 2}))
  assert prepare.find(config)


def test_the_log_can_be_prepared_alone_and_is_used_later(tmp_path, capsys):
  config = make_config(tmp_path)
  write_raw(tmp_path / 'raw', random_rows())
  folder = prepare.prepare_log(config)
  assert list(folder.folders) == ['interactions']
  assert dataset.Log.load(folder).num_rows('test') > 0
  assert prepare.find(config) is None
  assert list(outcomes(capsys)) == ['interactions']
  assert prepare.prepare_log(config).folders == folder.folders
  assert not outcomes(capsys)
  prepare.prepare(config)
  found = outcomes(capsys)
  assert found.pop('interactions') == 'skipped'
  assert set(found.values()) == {'done'}


def test_invalid_raw_files_leave_no_prepared_folder(tmp_path):
  rows = random_rows()
  del rows[7]['asin']
  write_raw(tmp_path / 'raw', rows)
  with pytest.raises(ValueError, match=r'reviews_X_5\.json\.gz:8: asin must be'):
    prepare.prepare(make_config(tmp_path))
  assert sorted(os.listdir(tmp_path)) == ['raw']
  with pytest.raises(ValueError, match=r'--config\.data\.k_core to 3 or more'):
    write_raw(tmp_path / 'raw', random_rows()[: 2 * USERS])
    prepare.prepare(make_config(tmp_path))
  assert sorted(os.listdir(tmp_path)) == ['raw']


KILLED = """
import os, pathlib, signal, sys
from data_prep import prepare, stage
from tests.data_prep import prepare_test

replace = stage._replace
def die_in_sids(partial, folder):
  os.kill(os.getpid(), signal.SIGKILL) if folder.name == 'sids' else replace(partial, folder)

stage._replace = die_in_sids
prepare.prepare(prepare_test.make_config(pathlib.Path(sys.argv[1])))
"""


def test_a_killed_preparation_gives_the_same_bytes_when_restarted(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  killed = subprocess.run([sys.executable, '-c', KILLED, tmp_path], cwd=ROOT, check=False)
  assert killed.returncode == -signal.SIGKILL
  names = os.listdir(tmp_path / 'out')
  assert any(name.startswith('.sids.') and name.endswith('.partial') for name in names)
  prepare.prepare(make_config(tmp_path))
  assert outcomes(capsys) == dict.fromkeys(STAGES, 'skipped') | {'sids': 'done'}
  prepare.prepare(make_config(tmp_path, out='whole'))
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_raw_dir_comes_from_the_config_the_environment_or_the_default(tmp_path, monkeypatch):
  monkeypatch.delenv('RECJAX_DATA', raising=False)
  assert prepare.raw_dir(make_config(tmp_path)) == epath.Path(tmp_path / 'raw')
  config = make_config(tmp_path, {'raw_dir': None})
  assert prepare.raw_dir(config) == epath.Path('data/raw/x')
  monkeypatch.setenv('RECJAX_DATA', '/somewhere')
  assert prepare.raw_dir(config) == epath.Path('/somewhere/x')


def test_a_missing_encoder_is_only_an_error_if_texts_must_be_encoded(tmp_path):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path)
  prepare.prepare(config)
  missing = make_config(tmp_path, sids={'encoder': str(tmp_path / 'nowhere')})
  with pytest.raises(ValueError, match=r'--config\.sids\.encoder'):
    prepare.prepare(missing)
  # Pretends that the encoder in that folder made the vectors.
  path = tmp_path / 'out' / 'text_embeddings' / 'manifest.json'
  manifest = json.loads(path.read_text())
  manifest['inputs']['encoder/config.json'] = '0' * 64
  manifest['params'] = {'kind': 'folder', 'max_tokens': 0, 'dtype': 'float32'}
  path.write_text(json.dumps(manifest))
  assert prepare.find(missing)


def test_a_second_preparation_waits_for_the_first_and_skips_all_stages(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    both = [pool.submit(prepare.prepare, make_config(tmp_path)) for _ in range(2)]
    assert both[0].result() == both[1].result()
  lines = [
    line.split(' in ')[0].split(', unch')[0] for line in capsys.readouterr().out.splitlines()
  ]
  for stage in STAGES:
    found = sorted(line for line in lines if line.startswith(f'{stage}:'))
    assert found == [f'{stage}: done', f'{stage}: skipped']
  assert sorted(os.listdir(tmp_path / 'out')) == sorted(STAGES)
  prepare.prepare(make_config(tmp_path, out='alone'))
  assert contents(tmp_path / 'out') == contents(tmp_path / 'alone')


def test_a_complete_folder_is_read_while_another_process_holds_the_lock(tmp_path, monkeypatch):
  write_raw(tmp_path / 'raw', random_rows())
  first, other = make_config(tmp_path), make_config(tmp_path, sids={'codes': (4, 4)})
  root = prepare.prepare(first)
  prepare.prepare(other)
  prepared_lib.write_record(root.root, {'another': {}})

  @contextlib.contextmanager
  def held(folder, purpose, wait, field):
    assert not wait
    raise lock.Held('held')
    yield

  monkeypatch.setattr(lock, 'hold', held)
  assert prepare.prepare(first) == root
  # The record is not changed, also in a read-only folder.
  assert prepared_lib.read_record(root.root) == {'another': {}}
  monkeypatch.setattr(os, 'access', lambda *args: False)
  monkeypatch.setattr(lock, 'hold', None)
  assert prepare.prepare(first) == root


@pytest.mark.parametrize('place', ['file', 'file/prepared'])
def test_a_prepared_dir_that_is_no_folder_is_rejected_in_one_line(tmp_path, place):
  write_raw(tmp_path / 'raw', random_rows())
  (tmp_path / 'file').write_text('')
  message = r'^--config\.data\.prepared_dir must be a folder; .*file is a file$'
  with pytest.raises(NotADirectoryError, match=message):
    prepare.prepare(make_config(tmp_path, out=place))
