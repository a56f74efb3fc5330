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

from recjax.decode.excluded import dead_leaves, without
from recjax.decode.leaf_items import rank_items
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


def children(
  model, trie: Trie, level: int, x_BMD, nodes_BM, scores_BM, dead_BE, sid_softmax: str, masks
) -> tuple[jax.Array, jax.Array]:
  """Returns the children of beams and their scores, int32 and float32 `[B, M * branch]`; -inf where there is none."""
  log_probs_BMC = log_probs(model, x_BMD, level, sid_softmax)
  nodes_BMX, codes_BMX, exists_BMX = trie.children(level, nodes_BM)
  scores_BMX = scores_BM[..., None] + jnp.take_along_axis(log_probs_BMC, codes_BMX, axis=-1)
  if masks is not None:
    exists_BMX &= masks.children(level, nodes_BMX)
  scores_BX = jnp.where(exists_BMX, scores_BMX, -jnp.inf).reshape(len(nodes_BM), -1)
  if level == trie.levels - 1:
    scores_BX = without(trie, scores_BX, nodes_BM, dead_BE)
  return nodes_BMX.reshape(scores_BX.shape), scores_BX


def tokens_of(model, trie: Trie, level: int, nodes_BM: jax.Array) -> jax.Array:
  """Returns the token of the last code of nodes of depth `level` + 1."""
  space = model.tables.space
  first_token = space.sid_start + space.level_starts[level]
  return first_token + jnp.take(trie.child_code[level], nodes_BM)


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
  widths = widths_of(trie, beams)
  x_BMD, scores_BM = x_BD[:, None], jnp.zeros((len(x_BD), 1))
  nodes_BM = jnp.zeros((len(x_BD), 1), jnp.int32)
  dead_BE = dead_leaves(trie, excluded_BE, masks)
  for level in range(trie.levels):
    grown = (x_BMD, nodes_BM, scores_BM, dead_BE, sid_softmax, masks)
    nodes_BX, scores_BX = children(model, trie, level, *grown)
    scores_BM, best_BM = top_k(scores_BX, widths[level])
    nodes_BM = jnp.take_along_axis(nodes_BX, best_BM, axis=1)
    if level == trie.levels - 1:
      break
    if level > 0:
      cache = cache.choose_beams(best_BM // trie.max_branch[level])
    x_BMD, cache = model.step(tokens_of(model, trie, level, nodes_BM), level, cache)
  most = beams if isinstance(beams, int) else beams[-1]
  return rank_items(trie, nodes_BM, scores_BM, excluded_BE, most, masks)
