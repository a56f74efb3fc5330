"""Candidates of the search: the beams, the best items of an item head, a memory and texts, each with its exact scores.

The score of the codes is the log-probability of the item's semantic ID, as the beam search or `recjax.decode.scores`
computes it. The score of the head is the item's log-probability in a softmax over the whole catalogue. The memory is
`recjax.decode.memory`, the similarity of texts `recjax.decode.text_similarity`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.decode import beam, cut
from recjax.decode.mask_slots import RowMasks
from recjax.decode.scores import scores_after
from recjax.decode.trie import Trie
from recjax.decode.widths import Beams, widths_of
from recjax.models import embedding


class Candidates(NamedTuple):
  """Distinct items for each row, numpy or jax arrays: the beams, then the best others of head, memory and text.

  In every row the items come first and the padding last: item -1, all scores -inf.

  Attributes:
    items_BM: int32.
    codes_BM: float32, log-probability of the item's semantic ID.
    head_BM: float32, log-probability of the item under the item head, a softmax over the catalogue. None: the
      model has no item head.
    memory_BM: float32, log(count + ε) of the item. None: there is no memory.
    text_BM: float32, similarity of the item's text to those of the history. None: texts are not compared.
  """

  items_BM: Any
  codes_BM: Any
  head_BM: Any | None = None
  memory_BM: Any | None = None
  text_BM: Any | None = None


def head_scores(model, h_BD: jax.Array) -> jax.Array:
  """Returns the log-probability of every item under the item head, float32 `[B, I]`."""
  catalogue = model.tables.space.catalogue
  vectors_ID = model.tables.item_vectors()[: catalogue.num_items]
  rows = max(embedding.LOGITS_AT_ONCE // len(vectors_ID), 1)

  def log_probs(h):
    logits = model.tables.logits(h, vectors_ID)
    if catalogue.exists_I is not None:
      exists_I = catalogue.exists_I.reshape((1,) * (logits.ndim - 1) + (-1,))
      logits = jnp.where(exists_I, logits, -jnp.inf)
    return jax.nn.log_softmax(logits, axis=-1)

  if rows >= len(h_BD):
    return log_probs(h_BD)
  return jax.lax.map(log_probs, h_BD, batch_size=rows)


def search_candidates(
  model,
  trie: Trie,
  prompts: dict[str, jax.Array],
  excluded_BE: jax.Array,
  beams: Beams,
  sid_softmax: str = 'level',
  has_head: bool = False,
  given_BN: jax.Array | None = None,
  masks: RowMasks | None = None,
  cuts: bool = False,
) -> Candidates:
  """Returns the beams, with an item head as many of the head's best items, and given items; see `beam.beam_search`.

  The prompts are read once. A beam as wide as the catalogue returns every item that is not excluded.

  Args:
    model, trie, prompts, excluded_BE, beams, sid_softmax: as in `beam.beam_search`.
    has_head: whether the model has an item head.
    given_BN: int32, distinct items of every row that are not excluded and in its mask; -1 is padding. None: none.
    masks: the sub-catalogue of each row. None: all items.
    cuts: whether beams that cannot enter are skipped (`recjax.decode.cut`).
  """
  space = model.tables.space
  x_BD, cache = model.start(prompts, widths_of(trie, beams)[0], max(space.num_levels - 1, 1))
  search = cut.beams_after if cuts and cut.pays(trie, beams) else beam.beams_after
  beams_BM, codes_BM = search(model, trie, x_BD, cache, excluded_BE, beams, sid_softmax, masks)
  more, head_BI = [], None
  if has_head:
    head_BI = head_scores(model, getattr(cache, 'item_state_BD', x_BD))
    most = beams if isinstance(beams, int) else beams[-1]
    more.append(_best(head_BI, excluded_BE, most, masks))
  if given_BN is not None:
    more.append(given_BN)
  if not more:
    return Candidates(beams_BM, codes_BM)
  items_BK = _new(beams_BM, more, len(trie.item_leaves))
  tokens_BKL = jnp.asarray(space.tokens(space.catalogue.codes_IL))[jnp.maximum(items_BK, 0)]
  lengths_BK = jnp.full(items_BK.shape, space.num_levels)
  kinds = tuple((level,) for level in range(space.num_levels))
  scores_BK = scores_after(model, x_BD, cache, tokens_BKL, lengths_BK, kinds, sid_softmax)
  items_BM = jnp.concatenate([beams_BM, items_BK], axis=1)
  codes_BM = jnp.concatenate([codes_BM, scores_BK], axis=1)
  order_BM = jnp.argsort(items_BM < 0, axis=1, stable=True)
  items_BM, codes_BM = (jnp.take_along_axis(x, order_BM, axis=1) for x in (items_BM, codes_BM))
  is_item_BM = items_BM >= 0
  codes_BM = jnp.where(is_item_BM, codes_BM, -jnp.inf)
  if head_BI is None:
    return Candidates(items_BM, codes_BM)
  head_BM = jnp.take_along_axis(head_BI, jnp.maximum(items_BM, 0), axis=1)
  return Candidates(items_BM, codes_BM, jnp.where(is_item_BM, head_BM, -jnp.inf))


def _best(
  scores_BI: jax.Array, excluded_BE: jax.Array, count: int, masks: RowMasks | None
) -> jax.Array:
  """Returns the items with the highest scores that may be returned, int32 `[B, count]`; -1 after the last one."""
  rows, items = scores_BI.shape
  if masks is not None:
    scores_BI = jnp.where(masks.items_of_rows(items), scores_BI, -jnp.inf)
  hidden_BE = jnp.where(excluded_BE < 0, items, excluded_BE)
  scores_BI = scores_BI.at[jnp.arange(rows)[:, None], hidden_BE].set(-jnp.inf, mode='drop')
  best_BK, items_BK = jax.lax.top_k(scores_BI, min(count, items))
  return jnp.where(jnp.isfinite(best_BK), items_BK, -1)


def _new(known_BM: jax.Array, lists: Sequence[jax.Array], num_items: int) -> jax.Array:
  """Concatenates lists of items `[B, K]`, with -1 in place of items that occur in an earlier list or are known."""
  row_B1 = jnp.arange(len(known_BM))[:, None]

  def mark(is_known_BI, items_BK):
    at_BK = jnp.where(items_BK < 0, num_items, items_BK)
    return is_known_BI.at[row_B1, at_BK].set(True, mode='drop')

  is_known_BI = mark(jnp.zeros((len(known_BM), num_items), bool), known_BM)
  found = []
  for items_BK in lists:
    is_known_BK = jnp.take_along_axis(is_known_BI, jnp.maximum(items_BK, 0), axis=1)
    found.append(jnp.where(is_known_BK, -1, items_BK))
    is_known_BI = mark(is_known_BI, items_BK)
  return jnp.concatenate(found, axis=1)
