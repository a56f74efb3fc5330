"""The item decoder: its equations in numpy; packed, alone and cached states; items that have no row yet."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import models
from recjax.models.item_decoder import ItemDecoder
from recjax.schema.model import Model
from recjax.sids.catalogue import Catalogue
from recjax.sids.token_space import TokenSpace

SIZES = (6, 5, 3)
WIDTH, BOS, MARKER, MASK = 16, 1, 7, 4
RNG = np.random.default_rng(0)
CODES_IL = np.stack(np.unravel_index(RNG.permutation(90)[:40], SIZES), axis=1).astype(np.int32)
SPACE = TokenSpace(12, SIZES, Catalogue(CODES_IL, SIZES))
TOKENS_IL = SPACE.tokens(CODES_IL)
MODEL = Model(
  family='item_decoder', depth=2, width=WIDTH, ff_width=32, heads=2, kv_heads=1, head_width=8,
  item_rows=True, item_head=True,
)  # fmt: skip


def built(model: Model = MODEL) -> ItemDecoder:
  """A model whose biases, norms and rows of items are not at their initial values."""
  graph, params = nnx.split(models.build(model, SPACE, 0))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), params)
  return nnx.merge(graph, params)


def sequence(items, first=BOS) -> np.ndarray:
  """The tokens of items, after one token; -1 is a mask."""
  groups = [np.full(3, MASK) if item < 0 else TOKENS_IL[item] for item in items]
  return np.concatenate([[first], *groups])


def batch_of(rows, length=24) -> dict[str, jax.Array]:
  """Rows of sequences; the last token of each is predicted but not read."""
  arrays = {name: np.zeros((len(rows), length), np.int32) for name in ('tokens', 'segments', 'positions')}  # fmt: skip
  for b, row in enumerate(rows):
    at = 0
    for n, tokens in enumerate(row):
      part = slice(at, at := at + len(tokens) - 1)
      arrays['tokens'][b, part] = tokens[:-1]
      arrays['segments'][b, part] = n + 1
      arrays['positions'][b, part] = np.arange(len(tokens) - 1)
  return {name: jnp.asarray(x) for name, x in arrays.items()}


def wide(x) -> np.ndarray:
  return np.asarray(x[...], np.float64)


def normed(x, norm) -> np.ndarray:
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + wide(norm.scale))


def test_a_position_is_an_item_and_its_codes_come_from_the_state_and_the_codes_before():
  model, items = built(), np.array([3, 17, -1, 8])
  sid, own, text = (wide(getattr(model.tables, name)) for name in ('sid', 'items', 'text'))
  rows = sid[TOKENS_IL - SPACE.sid_start]  # I, L, D
  inputs = [text[BOS], *(rows[i].sum(0) + own[i] for i in items[:2]), text[MASK]]
  ones = jnp.ones((1, 4), jnp.int32)
  h, _ = model.contextual(
    jnp.asarray(np.stack(inputs) * WIDTH**0.5, jnp.float32)[None], ones, jnp.arange(4)[None], None
  )  # the transformer of recjax.models.decoder, which has tests of its own
  x_BTD, h_BTD = jax.jit(models.hidden, static_argnums=2)(
    model, batch_of([[sequence(items)]], 12), None
  )
  for place, item in enumerate(items):
    if item < 0:  # a mask is read and never predicted
      continue
    state = np.asarray(h[0, place], np.float64)
    for level in range(3):
      x = state + rows[item, :level].sum(0) * WIDTH**0.5 + wide(model.level_bias)[level]
      hidden = normed(x, model.level_norm)
      gate = hidden @ wide(model.level_ff.gate.kernel)
      gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
      up = hidden @ wide(model.level_ff.up.kernel)
      expected = normed(x + (gate * up) @ wide(model.level_ff.down.kernel), model.level_final_norm)
      np.testing.assert_allclose(x_BTD[0, 3 * place + level], expected, atol=2e-5)
      np.testing.assert_allclose(h_BTD[0, 3 * place + level], state, atol=1e-5)


def test_packed_states_and_those_of_the_search_equal_those_of_a_sequence_alone():
  model = built()
  a, b, c = sequence([3, 17, 8, 30]), sequence([22, -1, 5], MARKER), sequence([1, 2, 3])
  hidden = jax.jit(models.hidden, static_argnums=2)
  packed, states = hidden(model, batch_of([[a, b], [c]]), None)
  alone, states_alone = hidden(model, batch_of([[a], [b], [c]]), None)
  for part, row in ((slice(0, 12), 0), (slice(12, 21), 1)):
    size = part.stop - part.start
    np.testing.assert_allclose(packed[0, part], alone[row, :size], atol=1e-5)
    np.testing.assert_allclose(states[0, part], states_alone[row, :size], atol=1e-5)
  # Prompts of three items, of none, and of an item and a mask; two beams, of which the second is continued.
  sequences, lengths, row = (a, c, b), (10, 1, 7), np.array([0, 2, 1])
  prompts = np.zeros((3, 15), np.int32)
  for tokens, prompt, length in zip(sequences, prompts, lengths, strict=True):
    prompt[:length] = tokens[:length]
  x_BD, cache = model.start({'tokens': jnp.asarray(prompts), 'lengths': jnp.asarray(lengths)}, 2, 2)
  last = np.array(lengths) - 1
  np.testing.assert_allclose(x_BD, alone[row, last], atol=1e-5)
  np.testing.assert_allclose(cache.item_state_BD, states_alone[row, last], atol=1e-5)
  for step in range(2):
    ends = [tokens[n + step] for tokens, n in zip(sequences, lengths, strict=True)]
    x_BMD, cache = model.step(jnp.asarray([[a[4], end] for end in ends]), step, cache)
    np.testing.assert_allclose(x_BMD[:, 1], alone[row, last + 1 + step], atol=1e-5)
    cache = cache.choose_beams(jnp.asarray([[1, 1], [0, 1], [0, 1]]))


def test_rows_of_other_tokens_than_whole_items_are_nan_and_dropout_changes_states():
  model = built(Model(**{**MODEL.__dict__, 'dropout': 0.5}))
  batch = batch_of([[sequence([3, 17, 8])]], 9)
  odd = {name: jnp.concatenate([x] * 3) for name, x in batch.items()}
  odd['positions'] = odd['positions'].at[0].set(0)  # nine examples of one token each
  odd['tokens'] = odd['tokens'].at[1].set(jnp.roll(odd['tokens'][1], 1))  # not after one token
  states = model.hidden(odd)
  assert np.isnan(states[:2]).all() and np.isfinite(states[2]).all()
  dropped = model.hidden(batch, jax.random.key(0))
  assert np.isfinite(dropped).all() and np.abs(dropped - model.hidden(batch)).max() > 0.1


def test_items_are_found_by_their_codes():
  catalogue = Catalogue(CODES_IL, SIZES)
  every = np.stack(np.unravel_index(np.arange(90), SIZES), axis=1)
  index = {tuple(codes): n for n, codes in enumerate(CODES_IL.tolist())}
  expected = [index.get(tuple(codes), -1) for codes in every.tolist()]
  assert catalogue.find(jnp.asarray(every)).tolist() == expected
  outside = jnp.asarray([[-1, 0, 0], [6, 0, 0], [0, 0, 3]])
  assert catalogue.find(outside).tolist() == [-1, -1, -1]
  assert catalogue.is_unique and not Catalogue(CODES_IL[[0, 0]], SIZES).is_unique


def test_rows_of_items_need_a_catalogue_and_semantic_ids_of_their_own():
  shared = TokenSpace(12, SIZES, Catalogue(CODES_IL[[0, 1, 0]], SIZES))
  for space, what in (
    (shared, 'items share a semantic ID'),
    (TokenSpace(12, SIZES), 'no catalogue'),
  ):
    with pytest.raises(ValueError, match=what):
      models.build(MODEL, space, 0)
  with pytest.raises(ValueError, match=r'model.item_rows needs model.family=item_decoder'):
    Model(family='gemma', item_rows=True)
