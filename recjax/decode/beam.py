"""Beam search constrained to the catalogue, in one jitted function.

The trie is on the device in code space (CSR, as in STATIC, arXiv 2602.22647, section on the transition
matrix). A beam is a node of the trie; its children are a contiguous range of nodes one level deeper. All beams
of a user share the keys and values of the prompt. Every returned beam is an item. If fewer items than beams are
left, the result is filled with -1 and score -inf.

Items that share a SID have the same score and are adjacent, the most popular first; or, with `Trie.ranks_first`, only
the most popular one that is not excluded is ranked. If all SIDs are unique, the code for shared SIDs is not compiled.
"""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.decode.excluded import dead_leaves, occurs, without
from recjax.decode.mask_slots import RowMasks
from recjax.decode.top_k import top_k
from recjax.decode.trie import Trie
from recjax.decode.widths import Beams, widths_of


def log_probs(model, x: jax.Array, level: int, sid_softmax: str) -> jax.Array:
  """Returns float32 log-probabilities `[..., C]` of one level's codes, under the softmax of training."""
  logits = model.tables.level_logits(x, level)
  if sid_softmax == 'level':
    return jax.nn.log_softmax(logits, axis=-1)
  return logits - model.tables.log_denominator(x)


def _rank_items(
  trie: Trie,
  leaves_BM: jax.Array,
  scores_BM: jax.Array,
  excluded_BE: jax.Array,
  beams: int,
  masks: RowMasks | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the first `beams` items of leaves that are sorted by score, and the scores of the items."""
  if trie.max_leaf_items == 1:
    return jnp.take(trie.leaf_items, leaves_BM), scores_BM
  items_BMK, exists_BMK = trie.items(leaves_BM)
  exists_BMK &= ~occurs(items_BMK, excluded_BE)
  if masks is not None:
    exists_BMK &= masks.has(items_BMK)
  B, width = len(leaves_BM), min(beams, len(trie.leaf_items))
  if trie.ranks_first:
    exists_BMK &= jnp.cumsum(exists_BMK, axis=-1) == 1
    width = leaves_BM.shape[1]
  scores_BMK = jnp.where(exists_BMK, scores_BM[..., None], -jnp.inf)
  # top_k takes the first of equal scores, so a leaf's items stay together and in order.
  scores_BM, best_BM = jax.lax.top_k(scores_BMK.reshape(B, -1), width)
  return jnp.take_along_axis(items_BMK.reshape(B, -1), best_BM, axis=1), scores_BM


def beam_search(
  model,
  trie: Trie,
  prompts: dict[str, jax.Array],
  excluded_BE: jax.Array,
  beams: Beams,
  sid_softmax: str = 'level',
  masks: RowMasks | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the best items for each prompt.

  Args:
    model: a backbone (`start`, `step`, `tables`).
    trie: the catalogue.
    prompts: int32 `tokens` `[B, S]`, padded on the right, and `lengths` `[B]`.
    excluded_BE: int32 items that must not be returned; -1 is padding.
    beams: M, or the number of beams after each level, the last of which is M.
    sid_softmax: the setting of training.
    masks: the sub-catalogue of each row. None: all items.

  Returns:
    Items int32 `[B, M]`, best first, and the float32 log-probabilities of their SIDs. M is at most the
    number of items; with `Trie.ranks_first`, of SIDs.
  """
  # A level has at most as many prefixes as nodes. If a beam keeps all of them, the search is exhaustive.
  x_BD, cache = model.start(prompts, widths_of(trie, beams)[0], trie.levels - 1)
  return beams_after(model, trie, x_BD, cache, excluded_BE, beams, sid_softmax, masks)


def beams_after(
  model,
  trie: Trie,
  x_BD: jax.Array,
  cache: Any,
  excluded_BE: jax.Array,
  beams: Beams,
  sid_softmax: str,
  masks: RowMasks | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the best items after prompts that `model.start` has read; see `beam_search`.

  Args:
    model, trie, excluded_BE, beams, sid_softmax, masks: as in `beam_search`.
    x_BD, cache: of `model.start`, with the beams that `widths_of` gives for the first level.
  """
  space = model.tables.space
  levels = space.num_levels
  widths = widths_of(trie, beams)
  B = len(x_BD)
  x_BMD, scores_BM = x_BD[:, None], jnp.zeros((B, 1))
  nodes_BM = jnp.zeros((B, 1), jnp.int32)
  dead_BE = dead_leaves(trie, excluded_BE, masks)
  for level in range(levels):
    log_probs_BMC = log_probs(model, x_BMD, level, sid_softmax)
    nodes_BMX, codes_BMX, exists_BMX = trie.children(level, nodes_BM)
    candidates_BMX = scores_BM[..., None] + jnp.take_along_axis(log_probs_BMC, codes_BMX, axis=-1)
    if masks is not None:
      exists_BMX &= masks.children(level, nodes_BMX)
    candidates_BMX = jnp.where(exists_BMX, candidates_BMX, -jnp.inf)
    branch = candidates_BMX.shape[-1]
    candidates_BX = candidates_BMX.reshape(B, -1)
    if level == levels - 1:
      candidates_BX = without(trie, candidates_BX, nodes_BM, dead_BE)
    scores_BM, best_BM = top_k(candidates_BX, widths[level])
    nodes_BM = jnp.take_along_axis(nodes_BMX.reshape(B, -1), best_BM, axis=1)
    if level == levels - 1:
      break
    if level > 0:
      cache = cache.choose_beams(best_BM // branch)
    first_token = space.sid_start + space.level_starts[level]
    tokens_BM = first_token + jnp.take(trie.child_code[level], nodes_BM)
    x_BMD, cache = model.step(tokens_BM, level, cache)
  most = beams if isinstance(beams, int) else beams[-1]
  items_BM, scores_BM = _rank_items(trie, nodes_BM, scores_BM, excluded_BE, most, masks)
  return jnp.where(jnp.isfinite(scores_BM), items_BM, -1), scores_BM
