"""Constrained beam search over the catalogue, exact for its width, in one jitted function.

The trie lives on the device in code space (CSR, as in STATIC, arXiv 2602.22647, section on the transition
matrix): a beam is a node, its children are a contiguous range of nodes one level down. Beams share their
prompt. Every beam that is returned is an item; where fewer items are left than beams, -1 with score -inf.
"""

import jax
import jax.numpy as jnp

from recjax.sids.trie import Trie


def _log_probs(model, x: jax.Array, level: int, sid_softmax: str) -> jax.Array:
  """float32 log-probabilities `[..., C]` of one level's codes: the score that training used."""
  logits = model.tables.level_logits(x, level)
  if sid_softmax == 'level':
    return jax.nn.log_softmax(logits, axis=-1)
  return logits - jax.nn.logsumexp(model.tables.all_logits(x), axis=-1, keepdims=True)


def _is_excluded(items: jax.Array, excluded_BE: jax.Array) -> jax.Array:
  """Which items `[B, M, X]` are in their user's row of excluded items (-1: none)."""

  def any_of(found, column_B):
    return found | (items == column_B[:, None, None]), None

  found, _ = jax.lax.scan(any_of, jnp.zeros(items.shape, bool), excluded_BE.T)
  return found


def beam_search(
  model,
  trie: Trie,
  prompts: dict[str, jax.Array],
  excluded_BE: jax.Array,
  beams: int,
  sid_softmax: str = 'level',
) -> tuple[jax.Array, jax.Array]:
  """The best items for each prompt.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    trie: the catalogue; its SIDs must be unique.
    prompts: int32 `tokens` `[B, S]`, padded on the right, and `lengths` `[B]`.
    excluded_BE: int32 items that must not be returned, -1 for none.
    beams: M.
    sid_softmax: as in training.

  Returns:
    items_BM int32, best first, and their float32 log-probabilities.
  """
  space = model.tables.space
  levels = space.num_levels
  # A level has no more prefixes than nodes; with all of them kept the search is exhaustive.
  widths = [min(beams, nodes) for nodes in trie.num_nodes[1:]]
  B = prompts['tokens'].shape[0]
  x_BD, cache = model.start(prompts, widths[0], levels - 1)
  x_BMD, scores_BM = x_BD[:, None], jnp.zeros((B, 1))
  nodes_BM = jnp.zeros((B, 1), jnp.int32)
  for level in range(levels):
    log_probs_BMC = _log_probs(model, x_BMD, level, sid_softmax)
    nodes_BMX, codes_BMX, exists_BMX = trie.children(level, nodes_BM)
    candidates_BMX = scores_BM[..., None] + jnp.take_along_axis(log_probs_BMC, codes_BMX, axis=-1)
    if level == levels - 1:
      exists_BMX &= ~_is_excluded(jnp.take(trie.leaf_items, nodes_BMX), excluded_BE)
    candidates_BMX = jnp.where(exists_BMX, candidates_BMX, -jnp.inf)
    branch = candidates_BMX.shape[-1]
    scores_BM, best_BM = jax.lax.top_k(candidates_BMX.reshape(B, -1), widths[level])
    nodes_BM = jnp.take_along_axis(nodes_BMX.reshape(B, -1), best_BM, axis=1)
    if level == levels - 1:
      break
    if level > 0:
      cache = cache.choose_beams(best_BM // branch)
    first_token = space.sid_start + space.level_starts[level]
    tokens_BM = first_token + jnp.take(trie.child_code[level], nodes_BM)
    x_BMD, cache = model.step(tokens_BM, level, cache)
  items_BM = jnp.where(jnp.isfinite(scores_BM), jnp.take(trie.leaf_items, nodes_BM), -1)
  return items_BM, scores_BM
