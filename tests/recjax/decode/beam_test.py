"""Compares the search with exhaustive scoring of the catalogue."""

import dataclasses
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.models import embedding
from recjax.models.decoder import Decoder, DecoderConfig
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace

SPACE = TokenSpace(text_size=12, level_sizes=(6, 6, 3))
CONFIG = DecoderConfig(
  depth=2, width=16, ff_width=32, heads=2, kv_heads=1, head_width=8,
  windows=(0, 3), rope_bases=(10_000.0,) * 2,
)  # fmt: skip


def world(seed, items):
  rng = np.random.default_rng(seed)
  every = np.array(list(itertools.product(range(6), range(6), range(3))), np.int32)
  codes = every[rng.permutation(len(every))[:items]]
  model = Decoder(CONFIG, SPACE, nnx.Rngs(params=seed))
  # Sharper than an untrained model, so that the order is not a matter of rounding.
  model.tables.sid[...] = model.tables.sid[...] * 3
  return (
    model,
    SidTable(codes, (6, 6, 3), 'random'),
    Trie.from_table(SidTable(codes, (6, 6, 3), 'random')),
  )


def score(model, prompt, codes_IL, sid_softmax='level'):
  """The log-probability of every row of codes after a prompt, from forward passes over full sequences.

  Rows may be prefixes: what follows their last level is not scored.
  """
  codes_IL = np.asarray(codes_IL)
  items, levels = codes_IL.shape
  codes = np.zeros((items, 3), np.int64)
  codes[:, :levels] = codes_IL
  tokens = np.concatenate([np.tile(prompt, (items, 1)), SPACE.tokens(codes)], axis=1)
  batch = {
    'tokens': jnp.asarray(tokens, jnp.int32),
    'segments': jnp.ones(tokens.shape, jnp.int32),
    'positions': jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape),
  }
  x_ILD = np.asarray(jax.jit(model.hidden)(batch), np.float64)[:, len(prompt) - 1 :]
  text = np.asarray(model.tables.text[...], np.float64)[: SPACE.text_size]
  sid = np.asarray(model.tables.sid[...], np.float64)[: SPACE.sid_size]
  total = np.zeros(items)
  for level in range(levels):
    start, size = SPACE.level_starts[level], SPACE.level_sizes[level]
    logits = x_ILD[:, level] @ np.concatenate([sid[start : start + size], text, sid]).T
    over = logits[:, :size] if sid_softmax == 'level' else logits[:, size:]
    picked = logits[np.arange(items), codes[:, level]]
    total += picked - scipy.special.logsumexp(over, axis=1)
  return total


@pytest.mark.parametrize('sid_softmax', ['level', 'full', 'full, a few beams at a time'])
def test_a_beam_as_wide_as_the_catalogue_equals_exhaustive_scoring(sid_softmax, monkeypatch):
  sid_softmax, _, few = sid_softmax.partition(', ')
  model, table, trie = world(0, 40)
  prompts = [np.array([3, 14, 20, 25], np.int32), np.array([3, 13], np.int32)]
  padded = np.zeros((2, 4), np.int32)
  for b, prompt in enumerate(prompts):
    padded[b, : len(prompt)] = prompt
  excluded = np.array([[5, 7], [-1, -1]], np.int32)
  inputs = {'tokens': jnp.asarray(padded), 'lengths': jnp.asarray([4, 2], jnp.int32)}
  if few:  # three, which do not divide the beams
    monkeypatch.setattr(embedding, 'LOGITS_AT_ONCE', 3 * 2 * model.tables.space.size)
  search = jax.jit(lambda i, e: beam_search(model, trie, i, e, 40, sid_softmax))
  items, scores = search(inputs, jnp.asarray(excluded))
  for b, prompt in enumerate(prompts):
    exact = score(model, prompt, table.codes_IL, sid_softmax)
    exact[[i for i in excluded[b] if i >= 0]] = -np.inf
    order = np.argsort(-exact, kind='stable')
    left = int(np.isfinite(exact).sum())
    np.testing.assert_array_equal(items[b, :left], order[:left])
    np.testing.assert_allclose(scores[b, :left], exact[order[:left]], atol=1e-5)
    assert (items[b, left:] == -1).all()
    assert np.isneginf(scores[b, left:]).all()


def test_a_narrow_beam_keeps_the_best_prefixes_of_every_level():
  model, table, trie = world(1, 60)
  prompt = np.array([3, 14, 20, 25], np.int32)
  inputs = {'tokens': jnp.asarray(prompt)[None], 'lengths': jnp.asarray([4], jnp.int32)}
  search = jax.jit(lambda i: beam_search(model, trie, i, jnp.full((1, 1), -1, jnp.int32), 5))
  items, _ = search(inputs)
  beams = [()]
  for level in range(3):
    prefixes = {tuple(codes[: level + 1]) for codes in table.codes_IL}
    grown = [p for p in sorted(prefixes) if p[:level] in beams]
    best = np.argsort(-score(model, prompt, grown), kind='stable')[:5]
    beams = [grown[i] for i in best]
  expected = [int(np.flatnonzero((table.codes_IL == p).all(axis=1))[0]) for p in beams]
  assert items[0].tolist() == expected


def test_beams_are_distinct_items_of_the_catalogue():
  model, _, trie = world(2, 30)
  inputs = {
    'tokens': jnp.full((4, 3), 3, jnp.int32),
    'lengths': jnp.asarray([1, 2, 3, 3], jnp.int32),
  }
  search = jax.jit(lambda i: beam_search(model, trie, i, jnp.full((4, 1), -1, jnp.int32), 12))
  items, scores = search(inputs)
  for row in np.asarray(items):
    assert len(set(row.tolist())) == 12
    assert set(row.tolist()) <= set(range(30))
  assert (np.diff(scores, axis=1) <= 0).all()


def shared_world(seed, items, leaves):
  """A world whose items share SIDs: the model, the table, the trie and how popular the items are."""
  model, table, _ = world(seed, leaves)
  rng = np.random.default_rng(seed)
  sid_of = np.concatenate([np.arange(leaves), rng.integers(0, leaves // 2, items - leaves)])
  shared = SidTable(table.codes_IL[rng.permutation(sid_of)], (6, 6, 3), 'random', 'keep')
  popularity = rng.integers(0, 4, items)  # with ties
  return model, shared, Trie.from_table(shared, popularity), popularity


def by_score_and_popularity(exact, popularity, excluded):
  """Items of finite score, best first; of equal SIDs the most popular, then the lower index."""
  rounded = np.round(exact, 9)  # of one SID the rows of the oracle differ by rounding alone
  order = np.lexsort((np.arange(len(exact)), -popularity, -rounded))
  return [int(i) for i in order if i not in excluded]


@pytest.mark.parametrize('sid_softmax', ['level', pytest.param('full', marks=pytest.mark.soak)])
def test_items_that_share_sids_are_ranked_like_exhaustive_scoring(sid_softmax):
  model, table, trie, popularity = shared_world(3, items=70, leaves=25)
  assert trie.max_leaf_items > 4
  prompt = np.array([3, 14, 20, 25], np.int32)
  leaf = trie.leaf_items[slice(*trie.leaf_offsets[np.argmax(np.diff(trie.leaf_offsets)) :][:2])]
  excluded = np.full((3, 16), -1, np.int32)
  excluded[1, : len(leaf)] = leaf  # all items of a leaf
  excluded[1, len(leaf)] = leaf[0]  # once more, as a history may
  excluded[2, :5] = [leaf[0], leaf[0], leaf[0], leaf[1], leaf[1]]  # as many rows, not all items
  inputs = {
    'tokens': jnp.tile(jnp.asarray(prompt), (3, 1)),
    'lengths': jnp.full(3, 4, jnp.int32),
  }
  search = jax.jit(lambda i, e, m: beam_search(model, trie, i, e, m, sid_softmax), static_argnums=2)
  exact = score(model, prompt, table.codes_IL, sid_softmax)
  for beams in (70, 100, 25):  # all leaves fit, so each is exhaustive
    items, scores = search(inputs, jnp.asarray(excluded), beams)
    assert items.shape == (3, min(beams, 70))
    for b in range(3):
      expected = by_score_and_popularity(exact, popularity, excluded[b])[:beams]
      assert items[b, : len(expected)].tolist() == expected
      np.testing.assert_allclose(scores[b, : len(expected)], exact[expected], atol=1e-5)
      assert (items[b, len(expected) :] == -1).all()


def test_of_items_that_share_a_sid_only_the_most_popular_one_left_is_ranked():
  model, table, trie, popularity = shared_world(3, items=70, leaves=25)
  trie = dataclasses.replace(trie, ranks_first=True)
  prompt = np.array([3, 14, 20, 25], np.int32)
  leaf = trie.leaf_items[slice(*trie.leaf_offsets[np.argmax(np.diff(trie.leaf_offsets)) :][:2])]
  excluded = np.full((3, 16), -1, np.int32)
  excluded[1, : len(leaf)] = leaf
  excluded[2, :2] = leaf[:2]  # the two most popular ones
  inputs = {'tokens': jnp.tile(jnp.asarray(prompt), (3, 1)), 'lengths': jnp.full(3, 4, jnp.int32)}
  search = jax.jit(lambda i, e: beam_search(model, trie, i, e, 30))
  items, scores = search(inputs, jnp.asarray(excluded))
  exact = score(model, prompt, table.codes_IL)
  assert items.shape == (3, 25)  # as many as SIDs
  for b in range(3):
    expected, sids = [], set()
    for item in by_score_and_popularity(exact, popularity, excluded[b]):
      sid = tuple(table.codes_IL[item].tolist())
      expected += [] if sid in sids else [item]
      sids.add(sid)
    assert len(expected) == (24 if b == 1 else 25)
    assert items[b, : len(expected)].tolist() == expected
    np.testing.assert_allclose(scores[b, : len(expected)], exact[expected], atol=1e-5)
    assert (items[b, len(expected) :] == -1).all()
  assert leaf[2] in items[2] and leaf[0] in items[0] and leaf[1] not in items[0]


def test_a_narrow_beam_over_shared_sids_skips_leaves_with_only_excluded_items():
  model, table, trie, popularity = shared_world(4, items=60, leaves=30)
  prompt = np.array([3, 14, 20, 25], np.int32)
  inputs = {'tokens': jnp.asarray(prompt)[None], 'lengths': jnp.asarray([4], jnp.int32)}
  excluded = np.full((1, 32), -1, np.int32)
  search = jax.jit(lambda i, e: beam_search(model, trie, i, e, 6))
  for round_ in range(3):
    kept = [p for p in range(60) if p not in excluded]
    beams = [()]
    for level in range(3):
      alive = table.codes_IL[kept] if level == 2 else table.codes_IL
      prefixes = {tuple(codes[: level + 1].tolist()) for codes in alive}
      grown = [p for p in sorted(prefixes) if p[:level] in beams]
      best = np.argsort(-score(model, prompt, grown), kind='stable')[:6]
      beams = [grown[i] for i in best]
    sharing = [[i for i in kept if tuple(table.codes_IL[i].tolist()) == sid] for sid in beams]
    expected = [i for s in sharing for i in sorted(s, key=lambda i: (-popularity[i], i))][:6]
    items, _ = search(inputs, jnp.asarray(excluded))
    assert items[0].tolist() == expected
    excluded[0, 10 * round_ :][: len(sharing[0])] = sharing[
      0
    ]  # excludes all items of the best leaf
