"""T5: the logits of `transformers`, packing, the beams' cache, remat and unrolling."""

import dataclasses
import functools
import json
import math

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from recjax import models
from recjax.models import pretrained
from recjax.models.mappings import t5 as mapping
from recjax.models.t5 import SIZES, T5, relative_buckets
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace
from tests.goldens import make_t5

SPACE = TokenSpace(text_size=make_t5.TOKENIZER_SIZE, level_sizes=(8, 8, 4))
KINDS = tuple(make_t5.KINDS)


def graph_of(config):
  return nnx.split(nnx.eval_shape(lambda: T5(config, SPACE, nnx.Rngs(params=0))))[0]


def model_of(folder):
  graph, shapes = pretrained.abstract(pretrained.read_config(folder), SPACE)
  return nnx.merge(graph, pretrained.load(folder, shapes, SPACE, SPACE.text_size))


@functools.cache
def golden(kind):
  return model_of(make_t5.GOLDENS / kind), dict(np.load(make_t5.GOLDENS / kind / 'example.npz'))


def small(**changes):
  """Makes a model of random weights; the changes must keep its parameters' shapes."""
  model, _ = golden('t5_v1_1')
  graph = graph_of(dataclasses.replace(model.config, **changes))
  return nnx.merge(graph, nnx.split(model)[1])


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graph, params, batch):
  return nnx.merge(graph, params).hidden(batch)


def hidden(model, batch):
  return _hidden(*nnx.split(model), batch)


def batch_of(encoder_tokens, encoder_segments, tokens, segments):
  names = ('encoder_tokens', 'encoder_segments', 'tokens', 'segments')
  arrays = (encoder_tokens, encoder_segments, tokens, segments)
  return {name: jnp.asarray(x, jnp.int32) for name, x in zip(names, arrays, strict=True)}


def alone(encoder_tokens, tokens):
  return batch_of(
    encoder_tokens[None], np.ones((1, len(encoder_tokens))), tokens[None], np.ones((1, len(tokens)))
  )


def random_tokens(seed, n):
  return np.random.default_rng(seed).integers(1, SPACE.text_size, n)


def largest_difference(model, example):
  """Returns the largest difference of logits outside padding, relative to their largest logit."""
  x_BTD = hidden(
    model,
    batch_of(
      example['input_ids'],
      example['attention_mask'],
      example['decoder_input_ids'],
      example['decoder_attention_mask'],
    ),
  )
  expected = example['logits'][..., : SPACE.text_size]
  got = np.asarray(model.tables.text_logits(x_BTD))
  there = example['decoder_attention_mask'] > 0
  return np.abs(got - expected)[there].max() / np.abs(expected[there]).max()


@pytest.mark.parametrize('kind', KINDS)
def test_logits_equal_the_goldens_of_transformers(kind):
  assert largest_difference(*golden(kind)) < 1e-4


@pytest.mark.parametrize('kind', KINDS)
def test_logits_equal_transformers(kind, tmp_path):
  pytest.importorskip('torch', reason='torch is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  shape = {'num_heads': 2, 'd_kv': 10, 'num_layers': 3, 'num_decoder_layers': 2}
  make_t5.make_checkpoint(kind, tmp_path, seed=9, **shape)
  example = make_t5.make_example(tmp_path, 9, lengths=(150, 20), decoder_lengths=(60, 150))
  assert largest_difference(model_of(tmp_path), example) < 1e-4


@pytest.mark.parametrize('kind', ['t5_v1_0', 't5_v1_1'])
def test_a_packed_segment_equals_the_segment_alone(kind):
  model, _ = golden(kind)
  prompts = [random_tokens(seed, n) for seed, n in ((1, 12), (2, 7))]
  targets = [random_tokens(seed, n) for seed, n in ((3, 4), (4, 9))]
  x = hidden(
    model,
    batch_of(
      np.concatenate([*prompts, [0]])[None],
      [[1] * 12 + [2] * 7 + [0]],
      np.concatenate([targets[1], targets[0], [0, 0]])[None],
      [[2] * 9 + [1] * 4 + [0] * 2],  # each side has its own order of segments
    ),
  )[0]
  assert np.isfinite(x).all()
  for got, i in ((x[9:13], 0), (x[:9], 1)):
    expected = hidden(model, alone(prompts[i], targets[i]))[0]
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_beams_with_a_shared_prompt_equal_full_sequences():
  model, _ = golden('t5_v1_1')
  lengths, M, L = (13, 5), 3, 14  # long enough that distances share buckets
  prompts = [random_tokens(5 + b, n) for b, n in enumerate(lengths)]
  suffixes = random_tokens(7, (2, M, L))
  padded = np.zeros((2, 13), np.int32)
  for b, prompt in enumerate(prompts):
    padded[b, : len(prompt)] = prompt
  inputs = {'tokens': jnp.asarray(padded), 'lengths': jnp.asarray(lengths)}
  x_BD, cache = jax.jit(model.start, static_argnums=(1, 2))(inputs, M, L)
  assert cache.cross[0].shape == (3, 2, 13, 3, 6)  # the prompt's keys exist once, not M times
  step = jax.jit(model.step)
  order = np.broadcast_to(np.arange(M), (2, M))
  states = [np.broadcast_to(x_BD[:, None], (2, M, 16))]
  for t in range(L):
    x, cache = step(jnp.asarray(np.take_along_axis(suffixes[..., t], order, 1)), t, cache)
    states.append(np.take_along_axis(np.asarray(x), np.argsort(order)[..., None], 1))
    if t % 5 == 0:  # reorders the beams at some steps
      parents = np.asarray([[2, 0, 1], [1, 2, 0]])
      cache, order = cache.choose_beams(jnp.asarray(parents)), np.take_along_axis(order, parents, 1)
  for b, prompt in enumerate(prompts):
    for m in range(M):
      expected = hidden(model, alone(prompt, np.concatenate([[0], suffixes[b, m]])))[0]
      got = np.stack([state[b, m] for state in states])
      np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_the_decoder_sees_its_past_and_the_whole_prompt():
  prompt, tokens = random_tokens(1, 9), random_tokens(2, 6)
  before = hidden(small(), alone(prompt, tokens))[0]
  for i in range(9):
    changed = np.where(np.arange(9) == i, prompt % 80 + 1, prompt)
    after = hidden(small(), alone(changed, tokens))[0]
    assert (np.abs(after - before).max(axis=1) > 1e-4).all()
  for i in range(6):
    changed = np.where(np.arange(6) == i, tokens % 80 + 1, tokens)
    after = hidden(small(), alone(prompt, changed))[0]
    np.testing.assert_array_equal(after[:i], before[:i])
    assert (np.abs(after - before)[i:].max(axis=1) > 1e-4).all()


@pytest.mark.parametrize('length', [1, 2, 7])
@pytest.mark.parametrize('stack', ['encoder', 'decoder'])
def test_the_bias_of_a_row_equals_the_bias_at_each_distance(stack, length):
  bias = getattr(small(), stack).relative_bias
  distances = np.arange(length)[None] - np.arange(length)[:, None]
  expected = np.asarray(bias.at(distances.ravel())).reshape(-1, length, length)
  np.testing.assert_array_equal(bias(length), expected)


def test_relative_buckets_hold_one_distance_each_then_ranges():
  # 32 buckets, 16 a direction: 0..7 alone, then 8 buckets from 8 to 128 by a factor of 2 ** 0.5.
  starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
  distances = np.arange(200)
  expected = np.searchsorted(starts, distances, side='right') - 1
  np.testing.assert_array_equal(relative_buckets(-distances, True, 32, 128), expected)
  np.testing.assert_array_equal(relative_buckets(distances[1:], True, 32, 128), expected[1:] + 16)
  assert relative_buckets(distances, False, 32, 128).max() == 0


def test_relative_buckets_equal_those_of_transformers():
  torch = pytest.importorskip('torch', reason='torch is not installed')
  t5 = pytest.importorskip('transformers.models.t5.modeling_t5', reason='transformers is absent')
  distances = np.arange(-3000, 3000)
  for buckets, max_distance in ((32, 128), (32, 256), (12, 25), (64, 1000), (8, 20), (40, 300)):
    for bidirectional in (True, False):
      expected = t5.T5Attention._relative_position_bucket(
        torch.from_numpy(distances), bidirectional, buckets, max_distance
      )
      got = relative_buckets(distances, bidirectional, buckets, max_distance)
      np.testing.assert_array_equal(got, expected.numpy())


def test_remat_and_unrolling_change_no_gradient():
  batch = alone(random_tokens(1, 9), random_tokens(2, 6))
  key = jax.random.key(0)

  def gradients(**changes):
    graph, params = nnx.split(small(dropout=0.3, **changes))

    def loss(params):
      return jnp.sum(jnp.sin(nnx.merge(graph, params).hidden(batch, key)))

    return jax.jit(jax.grad(loss))(params)

  expected, got = gradients(), gradients(remat='full', scan_unroll=2)

  def check(a, b):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(a).max(), 1))

  jax.tree.map(check, expected, got)


def test_bfloat16_stays_close_to_float32():
  batch = alone(random_tokens(1, 9), random_tokens(2, 6))
  exact = hidden(small(), batch)
  rough = hidden(small(compute_dtype='bfloat16'), batch)
  assert rough.dtype == jnp.bfloat16
  assert np.abs(np.asarray(rough, np.float32) - exact).mean() < 0.05 * np.abs(exact).mean()


@pytest.mark.parametrize(
  ('name', 'rows', 'parameters'),
  [
    ('t5_small', 32128, 60_506_624),
    ('t5_base', 32128, 222_903_552),
    ('t5_large', 32128, 737_668_096),
    ('t5_3b', 32128, 2_851_598_336),
    ('t5_11b', 32128, 11_307_321_344),
    ('flan_t5_small', 32128, 76_961_152),
    ('t5_v1_1_base', 32128, 247_577_856),
    ('t5_v1_1_large', 32128, 783_150_080),
    ('flan_t5_xl', 32128, 2_849_757_184),
    ('t5_v1_1_xxl', 32128, 11_135_332_352),
    ('mt5_small', 250112, 300_176_768),
  ],
)
def test_named_sizes_have_as_many_parameters_as_published_checkpoints(name, rows, parameters):
  config = SIZES[name].shape
  model = nnx.eval_shape(lambda: T5(config, SPACE, nnx.Rngs(params=0)))
  params = nnx.to_pure_dict(nnx.split(model)[1])
  del params['tables']
  tables = rows * config.width * (1 if config.tied else 2)
  assert tables + sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize('kind', KINDS)
def test_the_mapping_names_every_parameter_once_and_is_invertible(kind):
  folder = make_t5.GOLDENS / kind
  tensors = load_file(folder / 'model.safetensors')
  described = pretrained.read_config(folder)
  weights = mapping.mapping(described.config).weights
  params = traverse_util.flatten_dict(pretrained.abstract(described, SPACE)[1], sep='/')
  assert sorted(weight.path for weight in weights) == sorted(p for p in params if '/sid' not in p)
  names = [w.names(i)[0] for w in weights for i in (range(w.layers) if w.layers else (None,))]
  assert sorted(names) == sorted(tensors)
  for weight in weights:
    theirs = tensors[weight.names(0)[0]]
    np.testing.assert_array_equal(weight.to_theirs(weight.to_ours(theirs)), theirs)


def test_tied_and_scaled_outputs_are_recognised_from_the_folder():
  hf = {'d_model': 8, 'd_ff': 8, 'd_kv': 4, 'num_heads': 2, 'num_layers': 1, 'model_type': 't5'}
  both, one = {'shared.weight', 'lm_head.weight'}, {'shared.weight'}

  def outcome(names, **fields):
    config = mapping.config_of(hf | fields, names)
    return config.tied, config.scaled

  assert outcome(one) == (True, True)  # as in the published t5-small
  assert outcome(both) == (True, True)  # PyTorch files hold a copy of the table
  assert outcome(both, tie_word_embeddings=False) == (False, False)  # v1.1, FLAN-T5
  assert outcome(one, tie_word_embeddings=True, scale_decoder_outputs=False) == (True, False)
  assert outcome(both, tie_word_embeddings=True, scale_decoder_outputs=False) == (False, False)
  assert outcome(both, model_type='mt5') == (False, False)


def test_an_unsupported_config_is_refused():
  hf = json.loads((make_t5.GOLDENS / 't5_v1_0' / 'config.json').read_text())
  with pytest.raises(ValueError, match=r"feed_forward_proj .* got 'gated-tanh'"):
    mapping.config_of(hf | {'feed_forward_proj': 'gated-tanh'}, ())
  del hf['d_kv']
  with pytest.raises(ValueError, match='d_kv is missing'):
    mapping.config_of(hf, ())


def test_the_family_is_built_from_the_config():
  model = Model(family='t5', depth=2, width=16, ff_width=8, dropout=0.1)
  config = nnx.eval_shape(lambda: models.build(model, SPACE, seed=0)).config
  assert (config.depth, config.decoder_depth, config.gated, config.tied) == (2, 2, True, False)
  assert config.dropout == 0.1
  with pytest.raises(ValueError, match=r'got 2\. Set --config\.model\.kv_heads'):
    models.build(dataclasses.replace(model, kv_heads=2), SPACE, seed=0)
