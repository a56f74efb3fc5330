"""Checkpoint folders: round trips, SID rows, tokenizers, shards, exports, and refused folders."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers

from recjax.models import FAMILIES, pretrained
from recjax.models.pretrained import reading, writing
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from tests.folders import ROOT
from tests.goldens import make_decoders
from tests.live import needs_transformers

GOLDENS = make_decoders.GOLDENS
ROWS, KNOWN = make_decoders.SHAPE['vocab_size'], make_decoders.TOKENIZER_SIZE
SPECIALS = ('<mask>', '<separator>')
# 53 pieces, 2 specials of ours, 7 codes: SID tokens are 53 … 59, the specials 60 and 61 of an export.
SPACE = TokenSpace(KNOWN + len(SPECIALS), (4, 3))
FOLDERS = sorted(path.parent.name for path in GOLDENS.glob('*/config.json'))


def write_tokenizer(folder, words):
  vocab = {word: i for i, word in enumerate(['<pad>', '<|endoftext|>', '<bos>', *words])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token='<pad>'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(['<pad>', '<|endoftext|>', '<bos>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  fields = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': '<|endoftext|>',
    'pad_token': '<pad>',
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(fields))


@pytest.fixture
def checkpoint(tmp_path):
  """Makes a folder that a test may change, with a tokenizer smaller than the table."""

  def make(kind, words=KNOWN - 3):
    folder = tmp_path / kind
    shutil.copytree(GOLDENS / kind, folder)
    write_tokenizer(folder, [f'w{i}' for i in range(words)])
    return folder

  return make


def load(folder, space, **kwargs):
  graph, shapes = pretrained.abstract(pretrained.read_config(folder), space)
  return graph, pretrained.load(folder, shapes, space, **kwargs)


def with_random_sids(params, seed=0):
  """Sets SID rows and our specials to random values, as after training."""
  rng = np.random.default_rng(seed)
  tables = dict(params['tables'])
  for name in tables:
    first, stop = (0, SPACE.sid_size) if 'sid' in name else (KNOWN, SPACE.text_size)
    new = rng.normal(size=(stop - first, tables[name].shape[1])).astype(np.float32)
    tables[name] = tables[name].at[first:stop].set(new)
  return params | {'tables': tables}


def assert_same(a, b):
  a, b = (traverse_util.flatten_dict(x, sep='/') for x in (a, b))
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph, params, tokens):
  model = nnx.merge(graph, params)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  batch = {'tokens': tokens, 'segments': jnp.ones_like(tokens), 'positions': positions}
  return model.tables.all_logits(model.hidden(batch))


def logits_of(graph, params, tokens, length=15):
  """Returns the logits at all tokens; they are padded, so that the program is compiled once."""
  padded = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))).astype(np.int32)
  return np.asarray(_logits(graph, params, padded))[:, : tokens.shape[1]]


@pytest.mark.parametrize('kind', FOLDERS)
def test_a_round_trip_is_bit_identical(tmp_path, kind):
  source, out = GOLDENS / kind, tmp_path / 'out'
  pretrained.check_folder(source)
  space = TokenSpace(pretrained.read_config(source).vocab_rows, ())
  pretrained.export(out, load(source, space)[1], space, source)
  before, after = (load_file(folder / 'model.safetensors') for folder in (source, out))
  copies = {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  assert before.keys() - copies == after.keys()
  for name, array in after.items():
    np.testing.assert_array_equal(before[name], array)
  assert json.loads((out / 'config.json').read_text()) == json.loads(
    (source / 'config.json').read_text()
  )


@pytest.mark.parametrize('kind', ['gemma3', 'qwen3'])
def test_sid_rows_are_appended_at_the_size_of_the_tokenizer(checkpoint, tmp_path, kind):
  source, out, again = checkpoint(kind), tmp_path / 'out', tmp_path / 'again'
  params = load(source, SPACE)[1]
  table = load_file(source / 'model.safetensors')['model.embed_tokens.weight']
  np.testing.assert_array_equal(params['tables']['text'][:KNOWN], table[:KNOWN])
  mean = np.broadcast_to(table[:KNOWN].mean(axis=0), (SPACE.sid_size, table.shape[1]))
  np.testing.assert_allclose(params['tables']['sid'][: SPACE.sid_size], mean, atol=1e-6)
  assert not np.asarray(params['tables']['sid'][SPACE.sid_size :]).any()
  assert not np.asarray(params['tables']['text'][SPACE.text_size :]).any()

  params = with_random_sids(params)
  pretrained.export(out, params, SPACE, source, SPECIALS)
  written = load_file(out / 'model.safetensors')
  for name, prefix in (('model.embed_tokens.weight', ''), ('lm_head.weight', '_out')):
    if name not in written:
      continue
    text, sid = params['tables']['text' + prefix], params['tables']['sid' + prefix]
    expected = [text[:KNOWN], sid[: SPACE.sid_size], text[KNOWN : SPACE.text_size]]
    np.testing.assert_array_equal(written[name], np.concatenate(expected))
  assert json.loads((out / 'config.json').read_text())['vocab_size'] == SPACE.size
  tokenizer = tokenizers.Tokenizer.from_file(str(out / 'tokenizer.json'))
  assert tokenizer.encode('w0 <a_0><a_3><b_2> <separator> <bos>').ids == [3, 53, 56, 59, 61, 2]
  ids = pretrained.IdMap(SPACE, KNOWN).exported()
  np.testing.assert_array_equal(ids, [*range(53), 60, 61, *range(53, 60)])

  # A run that begins with the export makes its token space from this number.
  assert pretrained.text_pieces(out, SPACE.size) == pretrained.text_pieces(source, ROWS) == KNOWN
  restored = load(out, SPACE)[1]
  assert_same(restored, params)
  pretrained.export(again, restored, SPACE, out)
  assert (again / 'model.safetensors').read_bytes() == (out / 'model.safetensors').read_bytes()
  for name in ('tokenizer.json', 'config.json', 'recjax.json'):
    assert json.loads((again / name).read_text()) == json.loads((out / name).read_text())
  with pytest.raises(FileExistsError, match='--out must be a new or an empty folder'):
    pretrained.export(out, params, SPACE, source, SPECIALS)


def test_parameters_do_not_depend_on_the_sharding(checkpoint):
  source = checkpoint('qwen3')
  shapes = pretrained.abstract(pretrained.read_config(source), SPACE)[1]
  whole = pretrained.load(source, shapes, SPACE)
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  shardings = mesh_lib.tree_shardings(shapes, mesh)
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )
  parts = pretrained.load(source, shapes, SPACE)
  assert_same(parts, whole)
  assert parts['tables']['text'].addressable_shards[0].data.shape == (256, 12)
  assert parts['layers']['ff']['gate']['kernel'].addressable_shards[0].data.shape == (3, 12, 20)


def test_an_export_keeps_the_dtype_of_the_source_if_that_is_lossless(checkpoint, tmp_path):
  source = checkpoint('gemma1')
  tensors = load_file(source / 'model.safetensors')
  rounded = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
  save_file(rounded, source / 'model.safetensors')
  space = TokenSpace(ROWS, ())
  params = load(source, space, tokenizer_size=ROWS)[1]
  assert params['final_norm']['scale'].dtype == np.float32
  pretrained.export(tmp_path / 'same', params, space, source, tokenizer_size=ROWS)
  after = load_file(tmp_path / 'same' / 'model.safetensors')
  for name, x in rounded.items():
    assert after[name].dtype == x.dtype
    np.testing.assert_array_equal(after[name].view(np.uint16), x.view(np.uint16))
  params['final_norm']['scale'] = params['final_norm']['scale'].at[0].add(1e-6)
  pretrained.export(tmp_path / 'more', params, space, source, tokenizer_size=ROWS)
  assert {x.dtype for x in load_file(tmp_path / 'more' / 'model.safetensors').values()} == {
    np.dtype(np.float32)
  }
  assert json.loads((tmp_path / 'more' / 'config.json').read_text())['dtype'] == 'float32'
  assert_same(load(tmp_path / 'more', space, tokenizer_size=ROWS)[1], params)


def test_an_export_of_several_files_and_chunks_is_read_back(checkpoint, tmp_path, monkeypatch):
  monkeypatch.setattr(writing, 'FILE_BYTES', 10_000)
  monkeypatch.setattr(writing, '_CHUNK_ROWS', 7)
  monkeypatch.setattr(reading, '_CHUNK_BYTES', 1_000)
  source = checkpoint('gemma2')
  params = with_random_sids(load(source, SPACE)[1])
  pretrained.export(tmp_path / 'out', params, SPACE, source, SPECIALS)
  files = sorted(path.name for path in (tmp_path / 'out').glob('*.safetensors'))
  assert len(files) > 3 and files[0] == f'model-00001-of-{len(files):05}.safetensors'
  assert_same(load(tmp_path / 'out', SPACE)[1], params)
  (tmp_path / 'out' / files[1]).unlink()
  with pytest.raises(FileNotFoundError, match=f'names files that do not exist: {files[1]}'):
    pretrained.read_config(tmp_path / 'out')


@pytest.mark.parametrize(
  ('kind', 'prefix'),
  [
    ('gemma3', 'language_model.model.'),
    ('gemma3', 'model.language_model.'),
    ('qwen3_5', 'model.language_model.'),
  ],
)
def test_a_multimodal_folder_is_read_as_its_text_model(checkpoint, tmp_path, caplog, kind, prefix):
  text = checkpoint(kind)
  expected = load(text, SPACE)[1]
  folder = tmp_path / 'multimodal'
  shutil.copytree(text, folder)
  tensors = {
    prefix + name.removeprefix('model.'): x
    for name, x in load_file(text / 'model.safetensors').items()
  }
  others = {
    'gemma3': (
      'vision_tower.vision_model.post_layernorm.weight',
      'multi_modal_projector.mm_input_projection_weight',
    ),
    'qwen3_5': ('model.visual.blocks.0.norm1.weight', 'mtp.layers.0.mlp.up_proj.weight'),
  }[kind]
  if kind == 'qwen3_5':  # its head is no part of the model below
    tensors['lm_head.weight'] = tensors.pop(f'{prefix}lm_head.weight')
  files = {'1.safetensors': tensors, '2.safetensors': dict.fromkeys(others, np.ones(3, np.float32))}
  (folder / 'model.safetensors').unlink()
  for name, content in files.items():
    save_file(content, folder / name)
  index = {name: file for file, content in files.items() for name in content}
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': index}))
  hf = json.loads((text / 'config.json').read_text())
  whole = {'model_type': kind, 'text_config': hf, 'vision_config': {}, 'eos_token_id': [1, 9]}
  (folder / 'config.json').write_text(json.dumps(whole))
  with caplog.at_level('INFO'):
    pretrained.check_folder(folder)
  assert f'2 tensors that are not of the text model are left out: {min(others)}, ' in caplog.text
  params = load(folder, SPACE)[1]
  assert_same(params, expected)
  pretrained.export(tmp_path / 'out', params, SPACE, folder, SPECIALS)
  exported = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert exported['model_type'] == hf['model_type']
  assert exported['architectures'] == hf['architectures']
  assert_same(load(tmp_path / 'out', SPACE)[1], expected)


def test_missing_config_fields_have_the_defaults_of_transformers(checkpoint):
  folder = checkpoint('gemma3')
  file = folder / 'config.json'
  hf = json.loads(file.read_text())
  new = pretrained.read_config(folder).config
  for name in ('layer_types', 'rope_parameters', '_sliding_window_pattern'):
    del hf[name]
  hf |= {'rope_theta': 5000.0, 'rope_local_base_freq': 100.0, 'sliding_window_pattern': 6}
  hf['rope_scaling'] = {'rope_type': 'linear', 'factor': 8.0}
  file.write_text(json.dumps(hf))  # the format before `transformers` 5
  assert pretrained.read_config(folder).config == new


def test_all_wrong_tensors_are_reported_together(checkpoint):
  folder = checkpoint('qwen2')
  tensors = load_file(folder / 'model.safetensors')
  del tensors['model.layers.1.self_attn.k_proj.bias']
  tensors['model.norm.weight'] = np.ones(7, np.float32)
  tensors['model.layers.0.extra.weight'] = np.ones(2, np.float32)
  tensors['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.ones(2, np.float32)
  save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(ValueError) as error:
    pretrained.check_folder(folder)
  with pytest.raises(ValueError, match='3 do not agree'):
    load(folder, SPACE)
  assert (
    '; 3 do not agree: missing: model.layers.1.self_attn.k_proj.bias [12]; of another shape: '
    'model.norm.weight must be [24], is [7]; unexpected: model.layers.0.extra.weight. Set'
  ) in str(error.value)
  renamed = {f'base.{name}': tensor for name, tensor in tensors.items()}
  save_file(renamed, folder / 'model.safetensors')
  with pytest.raises(
    ValueError, match=r'missing: .*; unexpected: base.*; and \d+ more\. Set[^\n]+$'
  ):
    pretrained.check_folder(folder)


def _edit_config(folder, **fields):
  hf = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(hf | fields))


def _rename_to_bin(folder):
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')


def _cut(folder, size):
  file = folder / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
  ('damage', 'kind', 'message'),
  [
    (lambda f: (f / 'config.json').unlink(), FileNotFoundError, 'it holds no config.json'),
    (lambda f: (f / 'config.json').write_text('{'), ValueError, 'config.json must be JSON'),
    (
      lambda f: (f / 'config.json').write_text('[]'),
      ValueError,
      'must be a JSON object',
    ),
    (lambda f: _edit_config(f, model_type='mistral'), ValueError, "mt5; got 'mistral'"),
    (lambda f: _edit_config(f, hidden_act='relu6'), ValueError, "got 'relu6'"),
    (lambda f: _edit_config(f, hidden_size=None), ValueError, 'hidden_size is missing'),
    (lambda f: _edit_config(f, rope_parameters={'rope_type': 'yarn'}), ValueError, 'yarn'),
    (
      lambda f: (f / 'model.safetensors').unlink(),
      FileNotFoundError,
      'must hold model.safetensors',
    ),
    (_rename_to_bin, ValueError, r'convert it: python -c .*AutoModelForCausalLM'),
    (lambda f: _cut(f, 5000), ValueError, 'model.safetensors is truncated'),
    (lambda f: _cut(f, 100), ValueError, 'model.safetensors is truncated'),
    (lambda f: _cut(f, 3), ValueError, 'model.safetensors is truncated'),
  ],
)
def test_a_damaged_folder_is_refused(checkpoint, damage, kind, message):
  folder = checkpoint('qwen2')
  damage(folder)
  with pytest.raises(kind, match=message):
    pretrained.read_config(folder)


def test_tokenizer_and_space_must_agree(checkpoint, tmp_path):
  folder = checkpoint('gemma1', words=ROWS)
  for refuses in (pretrained.check_folder, lambda folder: load(folder, SPACE)):
    with pytest.raises(ValueError, match=r'more tokens than the table has rows \(64, .* has 67'):
      refuses(folder)
  write_tokenizer(folder, [f'w{i}' for i in range(KNOWN)])
  with pytest.raises(ValueError, match='every one of the 56 tokens'):
    load(folder, SPACE)
  write_tokenizer(folder, [*(f'w{i}' for i in range(KNOWN - 4)), '<a_2>'])
  params = load(folder, SPACE)[1]
  with pytest.raises(ValueError, match=r'each needs its token; got 0 specials'):
    pretrained.export(tmp_path / 'out', params, SPACE, folder)
  with pytest.raises(ValueError, match='it has <a_2> already'):
    pretrained.export(tmp_path / 'out', params, SPACE, folder, SPECIALS)
  assert not (tmp_path / 'out').exists()
  write_tokenizer(folder, [f'w{i}' for i in range(KNOWN - 3)])
  pretrained.export(tmp_path / 'out', params, SPACE, folder, SPECIALS)
  with pytest.raises(
    ValueError, match=r'SID levels of \(4, 3\) codes; this run has 55 and \(4, 4\)'
  ):
    load(tmp_path / 'out', TokenSpace(SPACE.text_size, (4, 4)))


def test_a_failed_export_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
  source, out = checkpoint('qwen3'), tmp_path / 'shop' / 'out'
  params = load(source, SPACE)[1]

  def full(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(writing.tokenizer_files, 'copy_with_tokens', full)
    with pytest.raises(OSError, match='No space left'):
      pretrained.export(out, params, SPACE, source, SPECIALS)
  assert list(out.parent.iterdir()) == []
  killed = out.parent / '.out.12345678.partial'  # as a SIGKILL leaves it
  killed.mkdir()
  (killed / 'model.safetensors').write_text('half')
  out.mkdir()  # an empty folder is accepted
  pretrained.export(out, params, SPACE, source, SPECIALS)
  assert [path.name for path in out.parent.iterdir()] == ['out']
  assert not (out / '.lock').exists()


def test_the_inputs_of_an_export_are_checked_first(checkpoint, tmp_path):
  source = checkpoint('qwen3')
  pretrained.check_export(tmp_path / 'out', source, SPACE, SPECIALS)
  pretrained.check_export(tmp_path / 'a' / 'b', source)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['qwen3']
  for out in (source, source / 'config.json'):
    with pytest.raises(
      FileExistsError, match=r'--out must be a new or an empty folder; .* not empty'
    ):
      pretrained.check_export(out, source)
  with pytest.raises(
    NotADirectoryError, match=r'--out must be in a folder; .*config.json is a file'
  ):
    pretrained.check_export(source / 'config.json' / 'out', source)
  with pytest.raises(FileNotFoundError, match='must be a checkpoint folder'):
    pretrained.check_export(tmp_path / 'out', tmp_path)
  write_tokenizer(source, [*(f'w{i}' for i in range(KNOWN - 4)), '<a_2>'])
  with pytest.raises(ValueError, match=r'it has <a_2> already \(and 0 more\)'):
    pretrained.check_export(tmp_path / 'out', source, SPACE, SPECIALS)


def test_sid_tokens_in_the_source_tokenizer_cause_a_warning(checkpoint, caplog):
  pretrained.check_folder(checkpoint('qwen3'))
  assert 'already has SID tokens' not in caplog.text
  folder = checkpoint('gemma1')
  write_tokenizer(folder, [*(f'w{i}' for i in range(KNOWN - 5)), '<a_2>', '<b_0>'])
  pretrained.check_folder(folder)
  assert 'already has SID tokens (<a_2> and 1 more)' in caplog.text


@pytest.mark.parametrize('name', ['tokenizer.json', 'spiece.model'])
def test_a_damaged_tokenizer_is_refused(checkpoint, name):
  folder = checkpoint('gemma1')
  (folder / 'tokenizer.json').unlink()
  (folder / name).write_bytes(b'{"version"')
  with pytest.raises(
    ValueError, match=f'{name} must be a complete tokenizer file: .*Fetch it again'
  ):
    pretrained.tokenizer_size(folder, ROWS)


def test_special_tokens_may_lie_beyond_the_table(checkpoint):
  """As in the text models of Gemma 3, whose tokenizer knows a token for images."""
  folder = checkpoint('gemma1', words=ROWS - 3)
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  tokenizer.add_special_tokens(['<image>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  assert pretrained.tokenizer_size(folder, ROWS) == ROWS + 1
  params = load(folder, TokenSpace(ROWS + 1, (4,)))[1]
  text = np.asarray(params['tables']['text'])
  np.testing.assert_allclose(text[ROWS], text[:ROWS].mean(axis=0), atol=1e-6)


def test_loading_takes_the_local_shards_and_less_than_one_tensor(checkpoint, tmp_path):
  folder = checkpoint('gemma1')
  shape = {'vocab_size': 20_000, 'hidden_size': 256, 'intermediate_size': 2048}
  _edit_config(folder, **shape, num_hidden_layers=6)
  hf, rng = json.loads((folder / 'config.json').read_text()), np.random.default_rng(0)
  config = pretrained.read_config(folder).config
  found = pretrained.Pretrained(FAMILIES['gemma'], config, hf['vocab_size'], hf)
  shapes = pretrained.abstract(found, TokenSpace(hf['vocab_size'], ()))[1]
  shapes = traverse_util.flatten_dict(shapes, sep='/')
  tensors = {}
  for weight in FAMILIES['gemma'].checkpoints.mapping(config).weights:
    theirs = reading.their_shape(weight, shapes[weight.path].shape, hf['vocab_size'])
    for layer in reading.layers_of(weight):
      tensors[weight.names(layer)[0]] = rng.random(theirs, np.float32)
  save_file(tensors, folder / 'model.safetensors')
  program = pathlib.Path(__file__).parent / 'load_memory_program.py'
  env = {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  run = subprocess.run(
    [sys.executable, str(program), str(folder)], capture_output=True, text=True, env=env, check=True
  )
  memory = json.loads(run.stdout)
  assert memory['local'] > 50e6 and memory['largest'] == 20_000 * 256 * 4
  assert memory['taken'] <= memory['local'] + memory['largest'], memory


@needs_transformers
@pytest.mark.parametrize('kind', ['gemma2', 'gemma3', 'llama3', 'qwen2', 'qwen3', 'qwen3_5'])
def test_transformers_continues_an_export_with_the_same_tokens(checkpoint, tmp_path, kind):
  import torch
  import transformers

  source, out = checkpoint(kind), tmp_path / 'out'
  graph, params = load(source, SPACE)
  params = with_random_sids(params)
  pretrained.export(out, params, SPACE, source, SPECIALS)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  assert len(tokenizer) == SPACE.size
  assert tokenizer.convert_tokens_to_ids(['<a_0>', '<b_2>', '<mask>']) == [53, 59, 60]
  model = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation='eager').eval()
  exported = pretrained.IdMap(SPACE, KNOWN).exported()
  prompt = np.random.default_rng(1).integers(3, SPACE.size, (1, 9))
  with torch.no_grad():
    theirs = model(input_ids=torch.from_numpy(exported[prompt])).logits.numpy()
  ours = logits_of(graph, params, prompt)
  assert np.abs(ours - theirs[..., exported]).max() <= 1e-4 * np.abs(theirs).max()
  for _ in range(6):
    token = logits_of(graph, params, prompt)[:, -1:].argmax(axis=-1)
    prompt = np.concatenate([prompt, token], axis=1)
  with torch.no_grad():
    continued = model.generate(
      torch.from_numpy(exported[prompt[:, :9]]),
      max_new_tokens=6,
      min_new_tokens=6,
      do_sample=False,
      eos_token_id=None,
    )
  np.testing.assert_array_equal(continued.numpy(), exported[prompt])
