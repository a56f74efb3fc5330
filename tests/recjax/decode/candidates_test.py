"""Candidates of the search against a brute force over the catalogue, for both scores."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax import models
from recjax.decode import candidates as candidates_lib
from recjax.decode.candidates import search_candidates
from recjax.decode.trie import Trie
from recjax.models import embedding
from recjax.schema.model import Model
from recjax.sids.table import SidTable
from tests.recjax.models.item_decoder_test import (
  CODES_IL,
  MODEL,
  SIZES,
  SPACE,
  TOKENS_IL,
  batch_of,
  sequence,
)

ITEMS = len(CODES_IL)
TRIE = Trie.from_table(SidTable(CODES_IL, SIZES, 'random'))
FLAT = Model(depth=1, width=16, ff_width=32, heads=2, kv_heads=1, head_width=8, item_head=True)
HISTORIES = [np.array([3, 17, 8]), np.array([5])]


def sharp(model: Model) -> nnx.Module:
  """A model whose scores differ clearly."""
  graph, params = nnx.split(models.build(model, SPACE, 0))
  rng = np.random.default_rng(2)
  params = jax.tree.map(lambda x: 2 * x + rng.normal(0, 0.2, x.shape).astype(np.float32), params)
  return nnx.merge(graph, params)


def brute_force(model, history) -> tuple[np.ndarray, np.ndarray]:
  """Both log-probabilities of every item after a history, from full sequences and the tables in float64."""
  batch = batch_of([[sequence([*history, item])] for item in range(ITEMS)], 3 * len(history) + 3)
  x_ITD, h_ITD = (
    np.asarray(x, np.float64) for x in jax.jit(models.hidden, static_argnums=2)(model, batch, None)
  )
  sid, own = (np.asarray(x[...], np.float64) for x in (model.tables.sid, model.tables.items))
  codes = np.zeros(ITEMS)
  for level, size in enumerate(SIZES):
    start = SPACE.level_starts[level]
    logits = x_ITD[:, 3 * len(history) + level] @ sid[start : start + size].T
    logits -= scipy.special.logsumexp(logits, axis=1, keepdims=True)
    codes += logits[np.arange(ITEMS), CODES_IL[:, level]]
  vectors = sid[TOKENS_IL - SPACE.sid_start].sum(1) + own[:ITEMS]
  logits = vectors @ h_ITD[0, 3 * len(history)]
  return codes, logits - scipy.special.logsumexp(logits)


def found(model, beams, excluded=None):
  prompts = np.zeros((2, 12), np.int32)
  for b, history in enumerate(HISTORIES):
    prompts[b, : 1 + 3 * len(history)] = sequence(history)
  inputs = {'tokens': jnp.asarray(prompts), 'lengths': jnp.asarray([10, 4])}
  excluded = np.full((2, 3), -1, np.int32) if excluded is None else excluded
  search = jax.jit(lambda i, e: search_candidates(model, TRIE, i, e, beams, 'level', True))
  return jax.device_get(search(inputs, jnp.asarray(excluded)))


@pytest.mark.parametrize('family', ['item_decoder', 'gemma'])
def test_a_beam_as_wide_as_the_catalogue_equals_a_brute_force_for_both_scores(family, monkeypatch):
  model = sharp(MODEL if family == 'item_decoder' else FLAT)
  monkeypatch.setattr(embedding, 'LOGITS_AT_ONCE', 50)  # the head scores one row at a time
  excluded = np.array([[3, 17, 8], [5, -1, -1]], np.int32)
  all_found = found(model, ITEMS, excluded)
  for b, history in enumerate(HISTORIES):
    codes, head = brute_force(model, history)
    left = ITEMS - len(history)
    items = all_found.items_BM[b]
    assert sorted(items[:left].tolist()) == sorted(set(range(ITEMS)) - set(history.tolist()))
    assert (items[left:] == -1).all()
    assert np.isneginf(all_found.codes_BM[b, left:]).all()
    assert np.isneginf(all_found.head_BM[b, left:]).all()
    np.testing.assert_allclose(all_found.codes_BM[b, :left], codes[items[:left]], atol=2e-5)
    np.testing.assert_allclose(all_found.head_BM[b, :left], head[items[:left]], atol=2e-5)


@pytest.mark.parametrize('family', ['item_decoder', 'gemma'])
def test_candidates_are_the_beams_and_the_best_of_the_head_with_exact_scores(family):
  model, beams = sharp(MODEL if family == 'item_decoder' else FLAT), 6
  few = found(model, beams)
  for b, history in enumerate(HISTORIES):
    codes, head = brute_force(model, history)
    items = few.items_BM[b][few.items_BM[b] >= 0]
    assert len(set(items.tolist())) == len(items)
    assert set(np.argsort(-head)[:beams].tolist()) <= set(items.tolist())
    np.testing.assert_allclose(few.codes_BM[b, : len(items)], codes[items], atol=2e-5)
    np.testing.assert_allclose(few.head_BM[b, : len(items)], head[items], atol=2e-5)
    assert (np.diff(few.codes_BM[b, :beams]) <= 0).all()  # the beams, best first
    assert (few.items_BM[b, len(items) :] == -1).all()


def test_a_model_without_a_head_has_the_beams_alone():
  model = sharp(MODEL)
  search = jax.jit(
    lambda i, e: candidates_lib.search_candidates(model, TRIE, i, e, 6, 'level', False)
  )
  inputs = {'tokens': jnp.asarray(sequence([4]))[None], 'lengths': jnp.asarray([4])}
  alone = search(inputs, jnp.full((1, 1), -1, jnp.int32))
  assert alone.head_BM is None and alone.items_BM.shape == (1, 6)
