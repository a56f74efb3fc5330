"""Candidates of the search: the beams and, with an item head, the head's best items, each with its exact scores.

The score of the codes is the log-probability of the item's semantic ID, as the beam search or `recjax.decode.scores`
computes it. The score of the head is the item's log-probability in a softmax over the whole catalogue.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.decode.beam import beams_after
from recjax.decode.scores import scores_after
from recjax.decode.trie import Trie
from recjax.models import embedding


class Candidates(NamedTuple):
  """Distinct items for each row, numpy or jax arrays; the first are the beams, then the head's best other items.

  In every row the items come first and the padding last: item -1, both scores -inf.

  Attributes:
    items_BM: int32.
    codes_BM: float32, log-probability of the item's semantic ID.
    head_BM: float32, log-probability of the item under the item head, a softmax over the catalogue. None: the
      model has no item head.
  """

  items_BM: Any
  codes_BM: Any
  head_BM: Any | None = None

  def ranked(self, beta: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best items by codes + beta x head, int32 `[B, count]`, -1 after the end, and their scores.

    Args:
      beta: at least 0; infinite: the head alone. Of no effect without an item head.
      count: items of a row, if there are as many candidates.
    """
    if self.head_BM is None:
      return self.items_BM[:, :count], self.codes_BM[:, :count]
    with np.errstate(invalid='ignore'):  # padding: -inf x 0
      scores_BM = self.head_BM if math.isinf(beta) else self.codes_BM + beta * self.head_BM
    scores_BM = np.where(self.items_BM < 0, -np.inf, scores_BM).astype(np.float32)
    order_BM = np.argsort(-scores_BM, axis=1, kind='stable')[:, :count]
    return tuple(np.take_along_axis(x, order_BM, axis=1) for x in (self.items_BM, scores_BM))


def head_scores(model, h_BD: jax.Array) -> jax.Array:
  """Returns the log-probability of every item under the item head, float32 `[B, I]`."""
  vectors_ID = model.tables.item_vectors()[: model.tables.space.catalogue.num_items]
  rows = max(embedding.LOGITS_AT_ONCE // len(vectors_ID), 1)
  log_probs = lambda h: jax.nn.log_softmax(model.tables.logits(h, vectors_ID), axis=-1)  # noqa: E731
  if rows >= len(h_BD):
    return log_probs(h_BD)
  return jax.lax.map(log_probs, h_BD, batch_size=rows)


def search_candidates(
  model,
  trie: Trie,
  prompts: dict[str, jax.Array],
  excluded_BE: jax.Array,
  beams: int,
  sid_softmax: str = 'level',
  has_head: bool = False,
) -> Candidates:
  """Returns the beams and, with an item head, as many of the head's best items; see `beam.beam_search`.

  The prompts are read once. A beam as wide as the catalogue returns every item that is not excluded.
  """
  space, B = model.tables.space, len(excluded_BE)
  x_BD, cache = model.start(prompts, min(beams, trie.num_nodes[1]), max(space.num_levels - 1, 1))
  beams_BM, codes_BM = beams_after(model, trie, x_BD, cache, excluded_BE, beams, sid_softmax)
  if not has_head:
    return Candidates(beams_BM, codes_BM)
  h_BD = getattr(cache, 'item_state_BD', x_BD)
  head_BI = head_scores(model, h_BD)
  items = head_BI.shape[1]
  row_B1 = jnp.arange(B)[:, None]
  hidden_BE = jnp.where(excluded_BE < 0, items, excluded_BE)
  open_BI = head_BI.at[row_B1, hidden_BE].set(-jnp.inf, mode='drop')
  best_BK, items_BK = jax.lax.top_k(open_BI, min(beams, items))
  is_beam_BK = jnp.any(items_BK[..., None] == beams_BM[:, None], axis=-1)
  items_BK = jnp.where(jnp.isfinite(best_BK) & ~is_beam_BK, items_BK, -1)
  tokens_BKL = jnp.asarray(space.tokens(space.catalogue.codes_IL))[jnp.maximum(items_BK, 0)]
  lengths_BK = jnp.full(items_BK.shape, space.num_levels)
  kinds = tuple((level,) for level in range(space.num_levels))
  scores_BK = scores_after(model, x_BD, cache, tokens_BKL, lengths_BK, kinds, sid_softmax)
  items_BM = jnp.concatenate([beams_BM, items_BK], axis=1)
  codes_BM = jnp.concatenate([codes_BM, scores_BK], axis=1)
  order_BM = jnp.argsort(items_BM < 0, axis=1, stable=True)
  items_BM, codes_BM = (jnp.take_along_axis(x, order_BM, axis=1) for x in (items_BM, codes_BM))
  is_item_BM = items_BM >= 0
  head_BM = jnp.take_along_axis(head_BI, jnp.maximum(items_BM, 0), axis=1)
  return Candidates(
    items_BM, *(jnp.where(is_item_BM, scores, -jnp.inf) for scores in (codes_BM, head_BM))
  )
