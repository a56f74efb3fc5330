"""Exact scores of sequences, compared with full forward passes over each prompt and sequence, alone."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax import models
from recjax.data.sequences import Sequences
from recjax.decode.scores import TEXT, Scorer, token_kinds
from recjax.models import embedding
from recjax.schema.model import Model
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import state

SPACE = TokenSpace(text_size=24, level_sizes=(6, 6, 4))
A, B, C = (SPACE.sid_start + start for start in SPACE.level_starts)
TABLE = Sequences.from_lists([
  [A + 1, B + 2, C + 3], [A + 1, B + 4, C + 0], [A + 5, B + 0, C + 1],
  [4, 1], [4, 7, 9, 1], [], [6], [3, A + 2, B + 3, 8], [A + 4, B + 1],
])  # fmt: skip
PROMPTS = [np.array(tokens, np.int32) for tokens in ([3, A, B + 1, C, 5], [3, 7], [9])]
CHOSEN = np.array([[0, 1, 2, 3, 4, -1], [8, 7, 6, 5, 4, 3], [2, 2, 4, 0, -1, -1]])


@functools.cache
def params_of(model, mesh):
  shapes = state.abstract_params(model, SPACE, mesh)

  @jax.jit
  def init():
    params = nnx.to_pure_dict(nnx.split(models.build(model, SPACE, 7))[1])
    # Sharper than an untrained model, so that the tokens have different scores.
    return params | {'tables': jax.tree.map(lambda x: x * 4, params['tables'])}

  return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), init(), shapes)


def small(family, **changes):
  heads = {'heads': 4, 'kv_heads': 4, 'head_width': 8}
  return Model(family=family, depth=1, width=32, ff_width=32, **heads, **changes)


def mesh_of(*sizes):
  names = dict(zip(mesh_lib.AXES, sizes, strict=True))
  return mesh_lib.make_mesh(Mesh(**names), jax.devices()[: int(np.prod(sizes))])


@functools.cache
def expected(model):
  """The log-probabilities from one forward pass with a row for every prompt and sequence."""
  pairs = [
    (u, n) for u, n in np.ndindex(CHOSEN.shape) if CHOSEN[u, n] >= 0 and len(TABLE[CHOSEN[u, n]])
  ]
  rows = [(PROMPTS[u], TABLE[CHOSEN[u, n]]) for u, n in pairs]
  encoders = [prompt for prompt, _ in rows]
  if model.family == 't5':
    inputs = [np.concatenate([[0], sequence[:-1]]) for _, sequence in rows]
  else:
    inputs = [np.concatenate([prompt, sequence[:-1]]) for prompt, sequence in rows]
  batch = padded('encoder_', encoders) | padded('', inputs)
  batch['positions'] = jnp.broadcast_to(jnp.arange(9)[None], batch['tokens'].shape)
  built = nnx.merge(models.graph(model, SPACE), params_of(model, mesh_of(1, 1, 1)))
  x_RTD = np.asarray(nnx.jit(lambda m, b: m.hidden(b))(built, batch), np.float64)
  text, sid = (np.asarray(t, np.float64) for t in built.tables.output_tables())
  table = np.concatenate([text[: SPACE.text_size], sid[: SPACE.sid_size]])
  found = np.where(CHOSEN < 0, -np.inf, 0.0)  # an empty sequence has probability one
  for x_TD, tokens, (_, sequence), pair in zip(x_RTD, inputs, rows, pairs, strict=True):
    states = x_TD[len(tokens) - len(sequence) : len(tokens)]
    found[pair] = sum(map(functools.partial(log_prob, model, table), states, sequence))
  return found


def padded(name, rows):
  tokens, segments = np.zeros((2, len(rows), 9), np.int32)
  for row, found in enumerate(rows):
    tokens[row, : len(found)] = found
    segments[row, : len(found)] = 1
  return {f'{name}tokens': jnp.asarray(tokens), f'{name}segments': jnp.asarray(segments)}


def log_prob(model, table, x_D, token):
  over = np.arange(SPACE.size)
  if model.sid_softmax == 'level':
    over = np.flatnonzero(SPACE.level_of_token == SPACE.level_of_token[token])
  logits = table @ x_D
  return logits[token] - scipy.special.logsumexp(logits[over])


def scored(model, mesh, batch_size=2):
  scorer = Scorer(model, SPACE, TABLE, mesh, batch_size)
  return scorer.score(params_of(model, mesh), PROMPTS, CHOSEN)


@pytest.mark.parametrize(
  'family, sid_softmax, mesh', [('gemma', 'level', (2, 2, 2)), ('t5', 'full', (1, 1, 1))]
)
def test_scores_equal_forward_passes_over_every_prompt_and_sequence(family, sid_softmax, mesh):
  model = small(family, sid_softmax=sid_softmax)
  np.testing.assert_allclose(scored(model, mesh_of(*mesh)), expected(model), atol=1e-4)


def test_many_sequences_are_scored_a_few_at_a_time(monkeypatch):
  model = small('gemma', sid_softmax='full')
  # Four rows, and four sequences of each at once, which do not divide the six.
  monkeypatch.setattr(embedding, 'LOGITS_AT_ONCE', 4 * 4 * SPACE.size)
  np.testing.assert_allclose(scored(model, mesh_of(1, 1, 1), 4), expected(model), atol=1e-4)


def test_kinds_are_told_for_every_position():
  tokens = np.array([[A, B, C, 0], [3, A, 0, 0], [5, 1, 2, 0]])
  assert token_kinds(SPACE, tokens, np.array([3, 2, 0])) == ((TEXT, 0), (0, 1), (2,), ())
