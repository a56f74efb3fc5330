"""Exact log-probabilities of given token sequences after a prompt, in one jitted function.

All sequences of a row share the keys and values of its prompt, which is read once, as the beams of a search do. A
token is normalised as in training (`recjax.training.loss.loss_sums`).
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.data.sequences import Sequences
from recjax.decode.batches import over_prompts
from recjax.decode.beam import log_probs
from recjax.models import embedding, lora
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

TEXT = -1  # the kind of a text token; the kind of a SID token is its level, from 0
BEAMS = 512  # sequences of a row that are scored at once

Kinds = tuple[tuple[int, ...], ...]


def token_kinds(space: TokenSpace, tokens_CT: np.ndarray, lengths_C: np.ndarray) -> Kinds:
  """Returns the kinds of tokens that occur at each of the T positions of sequences; see `sequence_scores`."""
  levels_CT = space.level_of_token[tokens_CT].astype(np.int64) - 1
  is_real_CT = np.arange(tokens_CT.shape[1]) < lengths_C[:, None]
  return tuple(
    tuple(np.unique(levels[real]).tolist())
    for levels, real in zip(levels_CT.T, is_real_CT.T, strict=True)
  )


def _token_scores(model, x_BMD, tokens_BN, kinds: tuple[int, ...], sid_softmax: str) -> jax.Array:
  """Returns the float32 log-probability of each token `[B, N]` after states `[B, N or 1, D]`."""
  space = model.tables.space
  scores_BN = jnp.zeros(tokens_BN.shape)
  for kind in kinds:
    if kind == TEXT:
      first, size = 0, space.text_size
      logits = model.tables.text_logits(x_BMD)
      if sid_softmax == 'level':
        values_BMC = jax.nn.log_softmax(logits, axis=-1)
      else:
        values_BMC = logits - model.tables.log_denominator(x_BMD)
    else:
      first, size = space.sid_start + space.level_starts[kind], space.level_sizes[kind]
      values_BMC = log_probs(model, x_BMD, kind, sid_softmax)
    at_BN = tokens_BN - first
    is_kind_BN = (at_BN >= 0) & (at_BN < size)
    at_BN = jnp.where(is_kind_BN, at_BN, 0)
    if x_BMD.shape[1] == 1:
      picked_BN = jnp.take_along_axis(values_BMC[:, 0], at_BN, axis=-1)
    else:
      picked_BN = jnp.take_along_axis(values_BMC, at_BN[..., None], axis=-1)[..., 0]
    scores_BN = jnp.where(is_kind_BN, picked_BN, scores_BN)
  return scores_BN


def _at_once(space: TokenSpace, rows: int, kinds: Kinds, sid_softmax: str) -> int:
  """Returns the number of sequences of a row whose logits fit `embedding.LOGITS_AT_ONCE`."""
  later = {kind for position in kinds[1:] for kind in position}
  if sid_softmax == 'full':
    widest = space.size
  else:
    widest = max(
      (space.text_size if kind == TEXT else space.level_sizes[kind] for kind in later), default=1
    )
  return max(min(embedding.LOGITS_AT_ONCE // (rows * widest), BEAMS), 1)


def sequence_scores(
  model,
  prompts: dict[str, jax.Array],
  tokens_BNT: jax.Array,
  lengths_BN: jax.Array,
  kinds: Kinds,
  sid_softmax: str = 'level',
) -> jax.Array:
  """Returns the log-probability of every sequence after the prompt of its row.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    prompts: int32 `tokens` `[B, S]`, padded on the right, and `lengths` `[B]`, at least 1.
    tokens_BNT: int32, N sequences for each row, padded on the right.
    lengths_BN: int32, their lengths. The score of an empty sequence is 0.
    kinds: for each of the T positions the kinds of its tokens: levels from 0, or TEXT; see `token_kinds`.
    sid_softmax: the setting of training.

  Returns:
    float32 `[B, N]`.
  """
  x_BD, cache = model.start(prompts, 1, max(tokens_BNT.shape[2] - 1, 1))
  return scores_after(model, x_BD, cache, tokens_BNT, lengths_BN, kinds, sid_softmax)


def scores_after(
  model,
  x_BD: jax.Array,
  cache: Any,
  tokens_BNT: jax.Array,
  lengths_BN: jax.Array,
  kinds: Kinds,
  sid_softmax: str,
) -> jax.Array:
  """Returns the log-probability of every sequence after prompts that `model.start` has read.

  Args:
    model, tokens_BNT, lengths_BN, kinds, sid_softmax: as in `sequence_scores`.
    x_BD, cache: of `model.start`, for at least T - 1 tokens; no beam has a token yet.
  """
  B, N, T = tokens_BNT.shape
  beams = min(N, _at_once(model.tables.space, B, kinds, sid_softmax))
  cache = cache.choose_beams(jnp.zeros((B, beams), jnp.int32))
  is_real_BNT = jnp.arange(T)[None, None] < lengths_BN[..., None]
  first_BN = _token_scores(model, x_BD[:, None], tokens_BNT[..., 0], kinds[0], sid_softmax)
  scores_BN = jnp.where(is_real_BNT[..., 0], first_BN, 0.0)
  if T == 1:
    return scores_BN

  def later(block):
    tokens_BMT, is_real_BMT = block
    scores_BM, state = jnp.zeros(tokens_BMT.shape[:2]), cache
    for t in range(1, T):
      x_BMD, state = model.step(tokens_BMT[..., t - 1], t - 1, state)
      found_BM = _token_scores(model, x_BMD, tokens_BMT[..., t], kinds[t], sid_softmax)
      scores_BM += jnp.where(is_real_BMT[..., t], found_BM, 0.0)
    return scores_BM

  if beams == N:
    return scores_BN + later((tokens_BNT, is_real_BNT))

  def blocks(x):  # [B, N, T] → [N / M, B, M, T]
    x = jnp.pad(x, ((0, 0), (0, -N % beams), (0, 0)))
    return x.reshape(B, -1, beams, T).swapaxes(0, 1)

  found = jax.lax.map(later, (blocks(tokens_BNT), blocks(is_real_BNT)))
  return scores_BN + found.swapaxes(0, 1).reshape(B, -1)[:, :N]


class Scorer:
  """Scores sequences of a table, such as the semantic IDs of items, after prompts with the model of a run."""

  def __init__(
    self,
    model: Model,
    space: TokenSpace,
    table: Sequences,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    timeout: float = 0.0,
  ):
    """Prepares the scoring.

    Args:
      model: the section of the config.
      space: the token space.
      table: C sequences of tokens, of which `score` chooses.
      mesh: the devices.
      batch_size: rows of a batch.
      timeout: seconds of a batch, with its compilation; 0: no limit.
    """
    self._mesh, self._batch_size, self._timeout = mesh, batch_size, timeout
    self._lengths_C = table.lengths.astype(np.int32)
    T = int(self._lengths_C.max())
    self._tokens_CT = np.zeros((len(table), T), np.int32)
    self._tokens_CT[np.arange(T) < self._lengths_C[:, None]] = table.values
    kinds = token_kinds(space, self._tokens_CT, self._lengths_C)
    graph = models.graph(model, space)

    def scores(params, batch):
      merged = nnx.merge(graph, lora.merge(params, model.lora_alpha))
      prompts = {name: batch[name] for name in ('tokens', 'lengths')}
      return sequence_scores(
        merged, prompts, batch['sequences'], batch['sequence_lengths'], kinds, model.sid_softmax
      )

    self._scores = jax.jit(scores, out_shardings=mesh_lib.replicated(mesh))

  def score(
    self,
    params,
    prompts: Sequence[np.ndarray],
    chosen_UN: np.ndarray,
    progress: str | None = None,
  ) -> np.ndarray:
    """Returns the log-probability of the chosen sequences after each prompt; independent of batch and devices.

    Args:
      params: parameters on the mesh.
      prompts: U arrays of int32 tokens, none empty.
      chosen_UN: ints, indices of the table; -1 is padding.
      progress: label of the progress bar. None: no bar.

    Returns:
      float32 `[U, N]`; -inf for padding.
    """

    def sequences(rows_B: np.ndarray) -> dict[str, np.ndarray]:
      chosen_BN = chosen_UN[rows_B]
      lengths_BN = np.where(chosen_BN < 0, 0, self._lengths_C[chosen_BN]).astype(np.int32)
      return {'sequences': self._tokens_CT[chosen_BN], 'sequence_lengths': lengths_BN}

    compute = functools.partial(self._scores, params)
    scores_UN = over_prompts(
      *(compute, prompts, self._mesh, self._batch_size, sequences),
      timeout=self._timeout,
      progress=progress,
    )
    return np.where(chosen_UN < 0, np.float32(-np.inf), scores_UN)
