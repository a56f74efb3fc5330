"""The `text_embeddings` stage: its inputs, kills, and the space of an earlier preparation."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from configs import demo
from data_prep import prepare, prune
from data_prep import stage as stage_lib
from data_prep.encoders import batching, choice, resumable, tfidf
from data_prep.encoders import stage as encoder_stage
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from tests.folders import ROOT, contents
from tests.goldens import make_encoders

WORDS = [f'w{i}' for i in range(53)]


@pytest.fixture
def checkpoint(tmp_path):
  """A tiny Qwen with a tokenizer: an encoder with weights."""
  import tokenizers

  folder = tmp_path / 'qwen'
  shutil.copytree(make_encoders.GOLDENS / 'qwen2', folder)
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='w3')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(folder / 'tokenizer.json'))
  return folder


def write_items(root, numbers, seed=0):
  """Writes items with these numbers; equal numbers have equal texts."""
  lines = []
  for n in numbers:
    rng = np.random.default_rng([seed, n])
    text = ' '.join(rng.choice(WORDS[4:], n % 7 + 1))
    lines.append(json.dumps({'id': f'i{n:03}', 'text': text}) + '\n')
  (root / 'interactions').mkdir(parents=True, exist_ok=True)
  (root / 'interactions' / 'items.jsonl').write_text(''.join(lines))


def make_config(encoder, **sids):
  config = config_lib.defaults(source='synthetic', name='x')
  config.sids.update(encoder=str(encoder), tfidf_width=6)
  config.sids.update({name: str(x) if name == 'extend' else x for name, x in sids.items()})
  return config_lib.from_config_dict(config)


def folder_and_stage(root, encoder, **sids):
  folder = stage_lib.Folder(root)
  folder.prepared.folders['interactions'] = 'interactions'
  return folder, encoder_stage.stage(make_config(encoder, **sids), folder.prepared)


def run(root, encoder, **sids):
  """Runs the stage, and returns its folder."""
  folder, stage = folder_and_stage(root, encoder, **sids)
  if folder.root.exists():
    folder.recover()
  folder.run(stage)
  return folder.prepared / stage.name


def is_current(root, encoder, **sids):
  folder, stage = folder_and_stage(root, encoder, **sids)
  return folder.find(stage)


def vectors(folder):
  return np.load(pathlib.Path(folder) / 'embeddings.npy')


def test_inputs_and_params_of_every_kind_of_encoder(tmp_path, checkpoint):
  root = tmp_path / 'root'
  write_items(root, range(20))
  first = vectors(run(root, checkpoint))
  assert first.shape == (20, 24)
  np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
  assert is_current(root, checkpoint)
  moved = checkpoint.rename(tmp_path / 'elsewhere')
  assert is_current(root, moved)
  for change in ({'encoder_max_tokens': 2}, {'encoder_dtype': 'bfloat16'}):
    assert not is_current(root, moved, **change)
    assert np.abs(vectors(run(root, moved, **change)) - first).max() > 1e-4
  run(root, moved)
  file = moved / 'tokenizer.json'
  file.write_text(file.read_text().replace('"w7"', '"w99"'))
  assert not is_current(root, moved)


def test_a_missing_encoder_is_only_an_error_if_texts_must_be_encoded(tmp_path, checkpoint):
  root = tmp_path / 'root'
  write_items(root, range(5))
  np.save(tmp_path / 'v.npy', np.eye(5))
  for encoder in (checkpoint, tmp_path / 'v.npy'):
    run(root, encoder)
    (shutil.rmtree if encoder.is_dir() else os.unlink)(encoder)
    assert is_current(root, encoder)
    write_items(root, range(6))
    assert not is_current(root, encoder)
    with pytest.raises(FileNotFoundError, match='stage text_embeddings reads it as encoder/'):
      run(root, encoder)
    write_items(root, range(5))
    assert is_current(root, encoder)
  with pytest.raises(ValueError, match=r'--config\.sids\.encoder must be `auto`, `tfidf`'):
    run(tmp_path / 'another', checkpoint)


def test_vectors_of_a_file_are_matched_to_the_catalogue(tmp_path, capsys):
  root = tmp_path / 'root'
  write_items(root, [3, 1, 2])
  np.savez(tmp_path / 'v.npz', ids=['i001', 'i002', 'i003'], vectors=[[2, 0], [0, 0], [3, 4]])
  got = vectors(run(root, tmp_path / 'v.npz'))
  np.testing.assert_allclose(got, [[0.6, 0.8], [1, 0], [0, 0]], atol=1e-7)
  assert '3 items / 2 width / 1 zero rows' in capsys.readouterr().out
  before = contents(root)
  write_items(root, [3, 1, 4])
  with pytest.raises(ValueError, match=r"1 of 3 are missing, such as 'i004'"):
    run(root, tmp_path / 'v.npz')
  assert contents(root / 'text_embeddings') == {
    name.partition('/')[2]: content
    for name, content in before.items()
    if name.startswith('text_embeddings/')
  }


def test_vectors_that_are_not_finite_are_rejected(tmp_path, checkpoint, monkeypatch):
  root = tmp_path / 'root'
  write_items(root, range(5))
  broken = np.ones((5, 3), np.float32)
  broken[3, 1] = np.nan
  monkeypatch.setattr(encoder_stage.encoders, 'encode', lambda *_: broken)
  with pytest.raises(ValueError, match=r'1 texts, such as line 4 of items\.jsonl'):
    run(root, checkpoint)
  assert not (root / 'text_embeddings').exists()


DAY_1, DAY_2, DAY_3 = range(30), [*range(2, 30), *range(30, 41)], [*range(5, 45)]


def test_tfidf_keeps_its_space_over_several_refreshes(tmp_path):
  fields = {}
  for day, numbers in enumerate((DAY_1, DAY_2, DAY_3)):
    root = tmp_path / f'day{day}'
    write_items(root, numbers)
    run(root, 'tfidf', **fields)
    assert is_current(root, 'tfidf', **fields)
    fields = {'extend': root}
  first, second, third = (vectors(tmp_path / f'day{day}/text_embeddings') for day in range(3))
  np.testing.assert_allclose(second[:28], first[2:], atol=1e-6)
  np.testing.assert_allclose(third[:36], second[3:], atol=1e-6)
  np.testing.assert_allclose(third[36:], tfidf.transform(tmp_path / 'day0/text_embeddings', [
    json.loads(line)['text']
    for line in (tmp_path / 'day2/interactions/items.jsonl').read_text().splitlines()
  ])[36:], atol=1e-6)  # fmt: skip
  fits = [contents(tmp_path / f'day{day}/text_embeddings') for day in range(3)]
  for name in tfidf.FILES:
    assert fits[0][name] == fits[1][name] == fits[2][name]
  # A new fit would give another space.
  alone = vectors(run(tmp_path / 'day1', 'tfidf'))
  assert np.abs(alone[:28] - first[2:]).max() > 0.01
  # The earlier folder is no longer needed.
  shutil.rmtree(tmp_path / 'day1')
  assert is_current(tmp_path / 'day2', 'tfidf', extend=tmp_path / 'day1')


def test_a_refresh_encodes_only_new_texts(tmp_path, checkpoint, monkeypatch):
  write_items(tmp_path / 'day1', DAY_1)
  first = vectors(run(tmp_path / 'day1', checkpoint))
  asked = []
  encode = encoder_stage.encoders.encode

  def counted(texts, *args):
    asked.extend(texts)
    return encode(texts, *args)

  monkeypatch.setattr(encoder_stage.encoders, 'encode', counted)
  write_items(tmp_path / 'day2', DAY_2)
  second = vectors(run(tmp_path / 'day2', checkpoint, extend=tmp_path / 'day1'))
  assert len(asked) == 11
  np.testing.assert_array_equal(second[:28], first[2:])
  write_items(tmp_path / 'whole', DAY_2)
  np.testing.assert_allclose(second, vectors(run(tmp_path / 'whole', checkpoint)), atol=1e-6)
  # No text is new, so the model is not loaded.
  asked.clear()
  write_items(tmp_path / 'day3', DAY_2[5:])
  run(tmp_path / 'day3', checkpoint, extend=tmp_path / 'day2')
  assert asked == []


def test_a_refresh_with_another_encoder_is_rejected(tmp_path, checkpoint):
  write_items(tmp_path / 'day1', DAY_1)
  run(tmp_path / 'day1', checkpoint)
  write_items(tmp_path / 'day2', DAY_2)
  with pytest.raises(ValueError, match=r"text_embeddings differ in dtype \('float32' earlier"):
    run(tmp_path / 'day2', checkpoint, extend=tmp_path / 'day1', encoder_dtype='bfloat16')
  with pytest.raises(ValueError, match=r'text_embeddings differ in .*kind'):
    run(tmp_path / 'day2', 'tfidf', extend=tmp_path / 'day1')
  file = checkpoint / 'tokenizer.json'
  file.write_text(file.read_text().replace('"w7"', '"w99"'))
  with pytest.raises(
    ValueError, match=r'these files differ: tokenizer\.json\. Set --config\.sids\.encoder'
  ):
    run(tmp_path / 'day2', checkpoint, extend=tmp_path / 'day1')


KILLED = """
import os, signal, sys
from data_prep.encoders import batching, resumable
from tests.data_prep.encoders import stage_test

batching._TOKENS, batching._MAX_SHAPES = {'cpu': 8}, 2
resumable.SECONDS = 0
write, written = resumable._write, []

def die(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

def counted(parts, first, vectors):
  if len(written) == 3 and sys.argv[3] == 'before a part':
    die()
  if len(written) == 3 and sys.argv[3] == 'in a part':
    type(parts).replace = die
  write(parts, first, vectors)
  written.append(first)

resumable._write = counted
if sys.argv[3] == 'before the swap':
  stage_test.stage_lib._replace = die
stage_test.run(sys.argv[1], sys.argv[2])
"""


def run_killed(root, encoder, where):
  return subprocess.run(
    [sys.executable, '-c', KILLED, str(root), str(encoder), where], cwd=ROOT, check=False
  ).returncode


@pytest.mark.parametrize('where', ['before a part', 'in a part', 'before the swap'])
def test_a_killed_encoding_resumes_and_gives_the_same_bytes(
  tmp_path, checkpoint, where, monkeypatch, capsys
):
  write_items(tmp_path / 'root', range(200))
  assert run_killed(tmp_path / 'root', checkpoint, where) == -signal.SIGKILL
  left = list((tmp_path / 'root' / encoder_stage.PARTS).glob('*/*.f32'))
  assert len(left) == 3 if where != 'before the swap' else len(left) > 3
  kept = sum(path.stat().st_size for path in left) // (24 * 4)
  monkeypatch.setattr(batching, '_TOKENS', {'cpu': 8})
  monkeypatch.setattr(batching, '_MAX_SHAPES', 2)
  capsys.readouterr()
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  run(tmp_path / 'root', checkpoint)
  assert f'{kept}/200' in capsys.readouterr().err  # where the bar begins
  encoder_stage.remove_parts(Prepared(tmp_path / 'root'))
  write_items(tmp_path / 'whole', range(200))
  run(tmp_path / 'whole', checkpoint)
  assert contents(tmp_path / 'root') == contents(tmp_path / 'whole')


def test_parts_of_other_texts_are_not_used(tmp_path, checkpoint, monkeypatch):
  monkeypatch.setattr(resumable, 'SECONDS', 0)
  root = tmp_path / 'root'
  write_items(root, range(20))
  run(root, checkpoint)
  shutil.rmtree(root / 'text_embeddings')
  write_items(root, range(20), seed=1)
  got = vectors(run(root, checkpoint))
  write_items(tmp_path / 'whole', range(20), seed=1)
  np.testing.assert_array_equal(got, vectors(run(tmp_path / 'whole', checkpoint)))


def test_a_missing_encoder_is_rejected_before_the_first_stage(tmp_path, checkpoint):
  config_dict = demo.get_config('tiny')
  config_dict.data.prepared_dir = str(tmp_path / 'out')
  for encoder in ('nowhere', str(tmp_path / 'v.npy'), str(checkpoint)):
    config_dict.sids.encoder = encoder
    (checkpoint / 'tokenizer.json').unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r'--config\.sids\.encoder'):
      prepare.prepare(config_lib.from_config_dict(config_dict))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'encoder_dtype': 'float16'}, r'sids\.encoder_dtype must be one of float32, bfloat16'),
    ({'encoder_max_tokens': -1}, r'sids\.encoder_max_tokens must not be negative; got -1'),
  ],
)
def test_invalid_encoder_fields_are_rejected(fields, message):
  with pytest.raises(ValueError, match=message):
    make_config('minilm', **fields)


def test_parts_are_removed_after_the_preparation(tmp_path, checkpoint, monkeypatch):
  monkeypatch.setattr(resumable, 'SECONDS', 0)
  written = []
  write = resumable._write
  monkeypatch.setattr(resumable, '_write', lambda *a: (written.append(a[0]), write(*a)))
  config_dict = demo.get_config('tiny')
  config_dict.data.prepared_dir = str(tmp_path / 'out')
  config_dict.sids.encoder = str(checkpoint)
  root = prepare.prepare(config_lib.from_config_dict(config_dict))
  assert written and written[0].parent == root.root / encoder_stage.PARTS
  assert 'text_embeddings' in os.listdir(root)
  assert encoder_stage.PARTS not in os.listdir(root)


def auto_world(root, **fields):
  config = demo.get_config('tiny')
  config.data.prepared_dir = str(root)
  config.sids.encoder = 'auto'
  config.update_from_flattened_dict(fields)
  return config_lib.from_config_dict(config)


@pytest.fixture
def installed(monkeypatch, checkpoint):
  """Returns a function that installs or removes the package of MiniLM; a tiny Qwen plays it."""

  def install(is_installed):
    folder = epath.Path(checkpoint) if is_installed else None
    monkeypatch.setattr(choice, '_minilm_folder', lambda: folder)

  return install


def test_auto_is_minilm_if_its_package_is_installed_and_tfidf_otherwise(
  tmp_path, installed, caplog
):
  caplog.set_level('INFO', 'data_prep')
  for is_installed, encoder in ((True, 'minilm'), (False, 'tfidf')):
    installed(is_installed)
    caplog.clear()
    root = tmp_path / encoder
    prepare.prepare(auto_world(root))
    assert encoder_stage.resolved(auto_world(root)).sids.encoder == encoder
    lines = [line for line in caplog.messages if 'sids.encoder=auto' in line]
    assert len(lines) == 1 and f'auto is {encoder}: ' in lines[0]
    named = auto_world(root, **{'sids.encoder': encoder})
    before = contents(root)
    prepare.prepare(named)  # the identity of the stage is that of the encoder
    assert contents(root) == before


def test_auto_keeps_the_encoder_of_the_prepared_folder(tmp_path, installed):
  for was_installed, encoder in ((False, 'tfidf'), (True, 'minilm')):
    root = tmp_path / encoder
    installed(was_installed)
    config = auto_world(root)
    prepare.prepare(config)
    before = contents(root)
    installed(not was_installed)
    prepared = prepare.prepare(config)
    assert contents(root) == before and prepare.find(config) == prepared
    assert encoder_stage.resolved(config).sids.encoder == encoder


def test_auto_finds_a_variant_again_by_the_config_as_given_and_as_resolved(tmp_path, installed):
  installed(False)
  config = auto_world(tmp_path / 'd')
  prepare.prepare(config)
  prepare.prepare(auto_world(tmp_path / 'd', **{'sids.codes': (8, 8)}))
  for codes in ((16, 16), (8, 8)):
    config = auto_world(tmp_path / 'd', **{'sids.codes': codes})
    prepared = prepare.prepare(config)
    assert config.prepared == encoder_stage.resolved(config).prepared == prepared
  prune.prune(config, prepared)
  assert config.prepared == encoder_stage.resolved(config).prepared == prepared


def test_a_refresh_with_auto_keeps_the_encoder_of_the_earlier_day(tmp_path, installed):
  installed(False)
  prepare.prepare(auto_world(tmp_path / 'monday'))
  installed(True)
  extend = {'sids.extend': str(tmp_path / 'monday')}
  tuesday = auto_world(tmp_path / 'tuesday', **extend)
  prepare.prepare(tuesday)
  assert encoder_stage.resolved(tuesday).sids.encoder == 'tfidf'


def test_auto_is_left_alone_where_no_text_is_encoded(tmp_path, installed, caplog):
  installed(True)
  config = auto_world(tmp_path, **{'sids.source': 'cooccurrence'})
  assert encoder_stage.resolved(config) is config
  encoder_stage.explain(config)
  assert not caplog.messages
