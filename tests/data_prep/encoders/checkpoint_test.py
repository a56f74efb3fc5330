"""T5 and decoder checkpoints as text encoders, compared with `transformers` on tiny checkpoints."""

import functools
import json
import shutil

from etils import epath
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors
import tokenizers

from data_prep import encoders
from data_prep.encoders import batching, checkpoint
from recjax import config
from recjax.sharding import mesh as mesh_lib
from tests.goldens import make_encoders
from tests.live import needs_transformers

KINDS = make_encoders.KINDS


@functools.cache
def golden():
  with np.load(make_encoders.FILE) as loaded:
    return dict(loaded)


def words(ids):
  return ' '.join(f'w{i}' for i in ids)


@pytest.fixture
def folder_of(tmp_path):
  """Copies of the checkpoints by kind, with a tokenizer in which the word w7 has id 7."""

  def make(kind):
    folder = tmp_path / kind
    shutil.copytree(make_encoders.GOLDENS / kind, folder)
    vocabulary = {f'w{i}': i for i in range(53)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token='w3'))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    # Lengths and special tokens of the file must not be applied twice.
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single='w2 $A w1', special_tokens=[('w2', 2), ('w1', 1)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(folder / 'tokenizer.json'))
    return folder

  return make


def one_device():
  auto = (jax.sharding.AxisType.Auto,) * 3
  return jax.make_mesh((1, 1, 1), mesh_lib.AXES, auto, devices=jax.devices()[:1])


def encode(folder, texts, mesh=None, **fields):
  mesh = mesh or mesh_lib.make_mesh(config.Mesh())
  return encoders.encode(texts, config.Sids(encoder=str(folder), **fields), mesh)


@pytest.mark.parametrize('kind', KINDS)
def test_vectors_equal_those_of_transformers(kind, folder_of):
  got = encode(folder_of(kind), [words(ids) for ids in make_encoders.texts()])
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, golden()[kind], atol=2e-5)


@needs_transformers
@pytest.mark.parametrize('kind', KINDS)
def test_goldens_equal_the_installed_transformers(kind):
  today = make_encoders.vectors(kind, make_encoders.GOLDENS / kind)
  np.testing.assert_allclose(today, golden()[kind], atol=1e-5)


def as_embedding_model(folder, pooling):
  """Makes a folder in the sentence-transformers layout; like Qwen3-Embedding it has no output table and no prefix."""
  kinds = [f'sentence_transformers.models.{k}' for k in ('Transformer', 'Pooling', 'Normalize')]
  (folder / '1_Pooling').mkdir()
  (folder / 'modules.json').write_text(json.dumps([{'type': kind} for kind in kinds]))
  (folder / '1_Pooling/config.json').write_text(json.dumps(pooling))
  (folder / 'sentence_bert_config.json').write_text(json.dumps({'max_seq_length': 60}))
  tensors = safetensors.load_file(folder / 'model.safetensors')
  tensors.pop('lm_head.weight', None)
  tensors = {name.removeprefix('model.'): tensor for name, tensor in tensors.items()}
  safetensors.save_file(tensors, folder / 'model.safetensors')
  return folder


@pytest.mark.parametrize(
  ('kind', 'pooling'),
  [
    ('qwen3', {'pooling_mode_mean_tokens': False, 'pooling_mode_lasttoken': True}),
    ('qwen2', {'pooling_mode': 'lasttoken', 'include_prompt': True}),
  ],
)
def test_the_state_of_the_last_token_equals_that_of_transformers(kind, pooling, folder_of):
  folder = as_embedding_model(folder_of(kind), pooling)
  texts = make_encoders.texts()
  got = encode(folder, [words(ids) for ids in texts])
  np.testing.assert_allclose(got, golden()[f'{kind}_last'], atol=2e-5)
  # A cut text keeps the tokens that tokenizer.json adds; so does an empty one.
  cut = encode(folder, [words(texts[5]), words(texts[5][:8]), ''], encoder_max_tokens=10)
  np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(cut[2]), 1, atol=1e-6)
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(
    ValueError, match=r'must hold tokenizer\.json, whose rule adds the last token'
  ):
    encoders.input_files(str(folder))


@needs_transformers
@pytest.mark.parametrize('kind', make_encoders.LAST_KINDS)
def test_goldens_of_the_last_token_equal_the_installed_transformers(kind):
  today = make_encoders.last_vectors(make_encoders.GOLDENS / kind)
  np.testing.assert_allclose(today, golden()[f'{kind}_last'], atol=1e-5)


def test_another_pooling_is_refused(folder_of):
  folder = as_embedding_model(folder_of('qwen3'), {'pooling_mode_cls_token': True})
  with pytest.raises(
    ValueError, match=r'must be the mean over tokens or the last token; got cls_token\. Set'
  ):
    encoders.input_files(str(folder))


@pytest.mark.parametrize('kind', ['t5_v1_1', 'gemma3', 'qwen3'])
def test_any_mesh_gives_the_same_vectors(kind, folder_of, monkeypatch):
  monkeypatch.setattr(batching, '_TOKENS', {'cpu': 64})
  monkeypatch.setattr(batching, '_MAX_SHAPES', 2)
  folder = folder_of(kind)
  rng = np.random.default_rng(1)
  texts = [words(rng.integers(3, 53, n)) for n in rng.integers(1, 40, 60)]
  one = one_device()
  expected = encode(folder, texts, one)
  for sizes in ({'data': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}):
    got = encode(folder, texts, mesh_lib.make_mesh(config.Mesh(**sizes)))
    np.testing.assert_allclose(got, expected, atol=2e-6)
  assert encode(folder, texts, one).tobytes() == expected.tobytes()


def test_bfloat16_vectors_are_close_to_float32(folder_of):
  texts = [words(ids) for ids in make_encoders.texts()]
  for kind in ('t5_v1_1', 'gemma2'):
    got = encode(folder_of(kind), texts, encoder_dtype='bfloat16')
    assert got.dtype == np.float32
    cosines = (got * golden()[kind]).sum(axis=1)
    assert cosines.min() > 0.98 and cosines.max() < 1 - 1e-7
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_texts_are_cut_with_their_special_tokens(folder_of):
  ids = make_encoders.texts()[5]
  t5, gemma = folder_of('t5_v1_0'), folder_of('gemma1')
  for folder in (t5, gemma):
    cut = encode(folder, [words(ids), words(ids[:9])], encoder_max_tokens=10)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    assert np.abs(cut[0] - encode(folder, [words(ids)])[0]).max() > 1e-3


def test_an_empty_text_gives_its_special_tokens_vector_or_zeros(folder_of):
  for kind, is_zero in (('t5_v1_0', False), ('gemma1', False), ('qwen2', True)):
    got = encode(folder_of(kind), ['', 'w5 w6'])
    assert np.isfinite(got).all()
    assert got.any(axis=1).tolist() == [not is_zero, True]


def test_a_sentencepiece_model_is_used_without_tokenizer_json(folder_of):
  from data_prep.texts import tokenizer as tokenizer_lib

  folder = folder_of('t5_v1_1')
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(
    ValueError, match=r'must hold one of tokenizer\.json, spiece\.model, tokenizer\.model'
  ):
    encoders.input_files(str(folder))
  content = tokenizer_lib.train_model(['red soap', 'blue soap', 'a b c d'], 300)
  (folder / 'spiece.model').write_bytes(content)
  found = checkpoint.pretrained.read_config(folder)
  ids = checkpoint._tokenize_fn(epath.Path(folder), found, 20)
  import sentencepiece

  pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
  assert ids(['red soap', '']) == [[*pieces.encode('red soap'), 1], [1]]


def test_input_files_are_exactly_the_files_that_are_read(folder_of):
  folder = folder_of('gemma3')
  (folder / 'README.md').write_text('of no matter')
  assert sorted(encoders.input_files(str(folder))) == [
    'config.json',
    'model.safetensors',
    'tokenizer.json',
  ]
  (folder / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match=r'must hold model\.safetensors.*--config\.sids\.encoder'):
    encoders.input_files(str(folder))


def test_unsupported_models_and_poolings_are_rejected(folder_of):
  folder = folder_of('qwen3')
  modules = [{'type': f'sentence_transformers.models.{k}'} for k in ('Transformer', 'Dense')]
  (folder / 'modules.json').write_text(json.dumps(modules))
  with pytest.raises(ValueError, match=r'got Transformer, Dense.*or to sentence_transformers:'):
    encode(folder, ['w5'])
  (folder / 'modules.json').unlink()
  hf = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(hf | {'model_type': 'mixtral'}))
  with pytest.raises(
    ValueError, match=r'model_type must be one of bert, .*gemma2.*t5.*; got .mixtral'
  ):
    encoders.input_files(str(folder))
  rope = {'rope_parameters': {'rope_type': 'yarn'}}
  (folder / 'config.json').write_text(json.dumps(hf | rope))
  with pytest.raises(
    ValueError, match=r'cannot be the encoder: rotary .* Set --config\.sids\.encoder'
  ):
    encode(folder, ['w5'])
