"""Gemma, Llama and Qwen: the logits of `transformers`, packing, the cache, and the published sizes."""

import dataclasses
import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models import delta_rule, pretrained
from recjax.models.decoder import Decoder
from recjax.models.families import by_size, sizes
from recjax.sids.token_space import TokenSpace
from tests.goldens import make_decoders
from tests.live import needs_transformers

KINDS = tuple(make_decoders.KINDS)
SPACE = TokenSpace(make_decoders.SHAPE['vocab_size'], ())


def model_of(folder):
  graph, shapes = pretrained.abstract(pretrained.read_config(folder), SPACE)
  return nnx.merge(graph, pretrained.load(folder, shapes, SPACE, SPACE.text_size))


@pytest.fixture(autouse=True, scope='module')
def short_chunks():
  """Makes the rows of Qwen 3.5 several chunks long."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(delta_rule, 'CHUNK', 8)
    yield


@functools.cache
def golden(kind):
  folder = make_decoders.GOLDENS / kind
  return model_of(folder), dict(np.load(folder / 'example.npz'))


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph, params, batch):
  model = nnx.merge(graph, params)
  return model.tables.text_logits(model.hidden(batch))


def logits_of(model, tokens, segments, positions):
  arrays = {'tokens': tokens, 'segments': segments, 'positions': positions}
  batch = {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()}
  return _logits(*nnx.split(model), batch)


def assert_agrees(ours, theirs):
  assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()


def padded_logits(model, example):
  tokens = example['input_ids']
  positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
  return logits_of(model, tokens, example['attention_mask'], positions)


@pytest.mark.parametrize('kind', KINDS)
def test_logits_equal_those_of_transformers(kind):
  model, example = golden(kind)
  real = example['attention_mask'] > 0
  assert_agrees(padded_logits(model, example)[real], example['logits'][real])


@pytest.mark.parametrize('kind', KINDS)
def test_packed_segments_equal_single_sequences_in_transformers(kind):
  model, example = golden(kind)
  # The beginnings of two sequences; the row has the shape of the test above, for which it is compiled.
  masks = example['attention_mask'][1:3]
  spans = [np.flatnonzero(row)[:n] for row, n in zip(masks, (11, 12), strict=True)]
  tokens = np.concatenate([example['input_ids'][1 + i][at] for i, at in enumerate(spans)])
  segments = np.repeat([1, 2], [len(at) for at in spans])
  positions = np.concatenate([np.arange(len(at)) for at in spans])
  B, T = example['input_ids'].shape
  rows = (np.tile(np.pad(x, (0, T - len(x))), (B, 1)) for x in (tokens, segments, positions))
  got = logits_of(model, *rows)[0, : len(tokens)]
  assert_agrees(got, np.concatenate([example['logits'][1 + i][at] for i, at in enumerate(spans)]))


@pytest.mark.parametrize('kind', ['gemma2', 'gemma3', 'qwen2'])
def test_decoding_token_by_token_equals_transformers(kind):
  model, example = golden(kind)
  tokens, T = example['input_ids'][:1], example['input_ids'].shape[1]
  graph, params = nnx.split(model)
  prompt = 4  # shorter than the windows, which then slide from the prompt into the suffix
  inputs = {'tokens': jnp.asarray(tokens[:, :prompt]), 'lengths': jnp.asarray([prompt], jnp.int32)}

  @jax.jit
  def step(params, token_11, at, cache):
    model = nnx.merge(graph, params)
    x_11D, cache = model.step(token_11, at, cache)
    return model.tables.text_logits(x_11D), cache

  start = jax.jit(model.start, static_argnums=(1, 2))
  x_BD, cache = start(inputs, 1, T - prompt)
  got = [model.tables.text_logits(x_BD)[:, None]]
  for at in range(T - prompt):
    logits, cache = step(params, jnp.asarray(tokens[:, prompt + at, None]), at, cache)
    got.append(logits)
  assert_agrees(np.concatenate(got, axis=1)[0], example['logits'][0, prompt - 1 :])


@needs_transformers
@pytest.mark.parametrize(
  ('kind', 'fields'),
  [
    ('gemma1', {'num_key_value_heads': 4, 'attention_bias': True, 'hidden_size': 40}),
    ('gemma2', {'num_hidden_layers': 5, 'sliding_window': 3, 'final_logit_softcapping': None}),
    ('gemma3', {'num_hidden_layers': 7, 'head_dim': 16, 'sliding_window': 2}),
    (
      'gemma3',
      {'num_hidden_layers': 4, 'layer_types': ['full_attention', 'sliding_attention'] * 2},
    ),
    ('qwen2', {'tie_word_embeddings': False, 'rms_norm_eps': 1e-3, 'hidden_act': 'gelu'}),
    ('qwen2', {'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 1}),
    ('qwen3', {'tie_word_embeddings': True, 'attention_bias': True, 'num_key_value_heads': 4}),
    ('llama3', {'tie_word_embeddings': True, 'attention_bias': True, 'head_dim': 16}),
    ('llama3', {'rope_parameters': {'rope_type': 'default', 'rope_theta': 500_000.0}}),
    ('llama3', {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 99.0, 'factor': 3.0}}),
    ('qwen3_5', {'tie_word_embeddings': True, 'attention_bias': True, 'linear_num_value_heads': 2}),
    ('qwen3_5', {'num_hidden_layers': 4, 'layer_types': None, 'linear_conv_kernel_dim': 2}),
  ],
)
def test_other_configurations_equal_transformers(tmp_path, kind, fields):
  make_decoders.make_checkpoint(kind, tmp_path, 11, **fields)
  example = make_decoders.make_example(tmp_path, 12)
  real = example['attention_mask'] > 0
  assert_agrees(padded_logits(model_of(tmp_path), example)[real], example['logits'][real])


# Parameters of the published checkpoints; tied tables count once, Gemma 3 from 4B on without its vision part.
PARAMETERS = {
  'gemma1_2b': 2_506_172_416,
  'gemma1_7b': 8_537_680_896,
  'gemma2_2b': 2_614_341_888,
  'gemma2_9b': 9_241_705_984,
  'gemma2_27b': 27_227_128_320,
  'gemma3_270m': 268_098_176,
  'gemma3_1b': 999_885_952,
  'gemma3_4b': 4_300_079_472 - 419_816_304,
  'llama3_8b': 8_030_261_248,
  'llama3_1_8b': 8_030_261_248,
  'llama3_2_1b': 1_235_814_400,
  'llama3_2_3b': 3_212_749_824,
  'qwen2_5_0_5b': 494_032_768,
  'qwen2_5_1_5b': 1_543_714_304,
  'qwen2_5_3b': 3_085_938_688,
  'qwen2_5_7b': 7_615_616_512,
  'qwen3_0_6b': 596_049_920,
  'qwen3_1_7b': 1_720_574_976,
  'qwen3_4b': 4_022_468_096,
  'qwen3_8b': 8_190_735_360,
  'qwen3_14b': 14_768_307_200,
  'qwen3_32b': 32_762_123_264,
  # Counts of `Qwen3_5ForCausalLM` of transformers 5.24.0, without images and prediction of several tokens.
  'qwen3_5_0_8b': 752_393_024,
  'qwen3_5_4b': 4_205_751_296,
  'qwen3_5_9b': 8_953_803_264,
  'qwen3_5_27b': 26_895_998_464,
}


@pytest.mark.parametrize('name', PARAMETERS)
def test_published_sizes_have_their_number_of_parameters(name):
  config, space = sizes()[name].shape, TokenSpace(sizes()[name].vocab_rows, ())
  build = by_size(name).build
  model = nnx.eval_shape(lambda: build(config, space, nnx.Rngs(params=0)))
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.split(model)[1]))
  tables = 1 if config.tied else 2
  padding = (space.text_rows - space.text_size) * config.width * tables
  assert count - padding == PARAMETERS[name]


def test_the_period_of_layer_types_need_not_divide_the_depth():
  shape = sizes()['gemma3_4b'].shape
  windows = shape.windows
  assert [layer for layer, window in enumerate(windows) if window == 0] == [5, 11, 17, 23, 29]
  assert len(windows) == 34 and windows[33] == 1024
  with pytest.raises(ValueError, match='windows must hold one value for each of the 34 layers'):
    dataclasses.replace(shape, windows=windows[:6])


def test_the_embedding_scale_is_rounded_to_the_compute_type():
  model, _ = golden('gemma1')  # sqrt(24) = 4.898979..., in bfloat16 4.90625
  config = dataclasses.replace(model.config, compute_dtype='bfloat16')
  rough = nnx.merge(
    nnx.split(nnx.eval_shape(lambda: Decoder(config, SPACE, nnx.Rngs(params=0))))[0],
    nnx.split(model)[1],
  )
  rows = model.tables.text[...][:5].astype(jnp.bfloat16)
  expected = rows * jnp.bfloat16(4.90625)
  np.testing.assert_array_equal(rough._embed(jnp.arange(5), jnp.arange(5)), expected)
