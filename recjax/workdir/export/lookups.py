"""Scores that are looked up, on the device; see `recjax.decode.lookups`. They are computed in float32."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.decode.candidates import Candidates
from recjax.decode.lookups import Lookups
from recjax.decode.mask_slots import RowMasks
from recjax.decode.memory import Memory
from recjax.decode.text_similarity import DECIMALS, TextSimilarity

Arrays = Mapping[str, Any]


class Counts:
  """The counts of a memory; see `recjax.decode.memory`."""

  def __init__(self, memory: Memory):
    """Names the arrays of a memory."""
    self._memory = memory
    arrays = memory.arrays()
    if not len(arrays['items']):  # nothing follows anything: one cell that is never read
      arrays |= {name: np.zeros(1, arrays[name].dtype) for name in ('items', 'counts')}
    self.arrays = {f'memory/{name}': x for name, x in arrays.items()}
    self._longest = max(int(np.diff(self.arrays['memory/offsets']).max()), 1)

  def read(self, arrays: Arrays, history_BE: jax.Array) -> jax.Array:
    """Returns the counts of all items after histories, float32 `[B, I]`."""
    offsets, items, counts = (arrays[f'memory/{name}'] for name in ('offsets', 'items', 'counts'))
    B, I = len(history_BE), len(offsets) - 1  # noqa: E741
    row_B1, steps_1R = jnp.arange(B)[:, None], jnp.arange(self._longest)[None]

    def add(counts_BI, column):
      age, item_B = column
      first_B, end_B = (offsets[jnp.maximum(item_B, 0) + n][:, None] for n in (0, 1))
      at_BR = first_B + steps_1R
      is_in_BR = (at_BR < end_B) & (item_B >= 0)[:, None]
      at_BR = jnp.minimum(at_BR, len(items) - 1)
      to_BR = jnp.where(is_in_BR, items[at_BR], I)
      weight = jnp.float32(self._memory.decay) ** age
      return counts_BI.at[row_B1, to_BR].add(weight * counts[at_BR], mode='drop'), None

    ages_E = jnp.arange(history_BE.shape[1])[::-1]
    return jax.lax.scan(add, jnp.zeros((B, I)), (ages_E, history_BE.T))[0]

  def best(
    self, arrays: Arrays, counts_BI: jax.Array, excluded_BE: jax.Array, masks: RowMasks
  ) -> jax.Array:
    """Returns the items of the masks with the largest counts that are not excluded; see `Memory.best`."""
    B, I = counts_BI.shape  # noqa: E741
    counts_BI = jnp.where(masks.items_of_rows(I), counts_BI, 0)
    hidden_BE = jnp.where(excluded_BE < 0, I, excluded_BE)
    counts_BI = counts_BI.at[jnp.arange(B)[:, None], hidden_BE].set(0, mode='drop')
    popular_I = arrays['memory/popular']
    # top_k takes the first of equal counts, the most popular item.
    counts_BN, at_BN = jax.lax.top_k(counts_BI[:, popular_I], min(self._memory.candidates, I))
    return jnp.where(counts_BN > 0, popular_I[at_BN], -1)

  def scores(self, arrays: Arrays, counts_BI: jax.Array, items_BM: jax.Array) -> jax.Array:
    """Returns log(count + ε) of items, float32 `[B, M]`; -inf for -1."""
    del arrays
    found_BM = jnp.take_along_axis(counts_BI, jnp.maximum(items_BM, 0), axis=1)
    return jnp.where(items_BM < 0, -jnp.inf, jnp.log(found_BM + self._memory.smoothing))


class Similarity:
  """The similarity of texts; see `recjax.decode.text_similarity`."""

  def __init__(self, texts: TextSimilarity):
    """Names the array of the texts."""
    self._texts = texts
    self.arrays = {'text/vectors': np.asarray(texts.vectors_ID, np.float32)}

  def read(self, arrays: Arrays, history_BE: jax.Array) -> jax.Array:
    """Returns the decayed sums of the vectors of histories, float32 `[B, D]`."""
    ages_1E = jnp.arange(history_BE.shape[1])[::-1][None]
    weights_BE = jnp.where(history_BE < 0, 0, jnp.float32(self._texts.decay) ** ages_1E)
    vectors_BED = arrays['text/vectors'][jnp.maximum(history_BE, 0)]
    return jnp.einsum('BE,BED->BD', weights_BE, vectors_BED, precision='highest')

  def best(
    self, arrays: Arrays, query_BD: jax.Array, excluded_BE: jax.Array, masks: RowMasks
  ) -> jax.Array:
    """Returns the items of the masks with the largest scores that are not excluded; see `TextSimilarity.best`."""
    vectors_ID = arrays['text/vectors']
    B, I = len(query_BD), len(vectors_ID)  # noqa: E741
    scores_BI = jnp.einsum('BD,ID->BI', query_BD, vectors_ID, precision='highest')
    hidden_BE = jnp.where(excluded_BE < 0, I, excluded_BE)
    row_B1 = jnp.arange(B)[:, None]
    scores_BI = jnp.round(scores_BI, DECIMALS).at[row_B1, hidden_BE].set(-jnp.inf, mode='drop')
    is_open_BI = jnp.any(query_BD != 0, axis=1, keepdims=True) & masks.items_of_rows(I)
    scores_BI = jnp.where(is_open_BI, scores_BI, -jnp.inf)
    scores_BN, items_BN = jax.lax.top_k(scores_BI, min(self._texts.candidates, I))
    return jnp.where(jnp.isfinite(scores_BN), items_BN, -1)

  def scores(self, arrays: Arrays, query_BD: jax.Array, items_BM: jax.Array) -> jax.Array:
    """Returns the scores of items, float32 `[B, M]`; -inf for -1."""
    vectors_BMD = arrays['text/vectors'][jnp.maximum(items_BM, 0)]
    scores_BM = jnp.einsum('BD,BMD->BM', query_BD, vectors_BMD, precision='highest')
    return jnp.where(items_BM < 0, -jnp.inf, scores_BM)


class DeviceLookups:
  """The lookups of a run.

  Attributes:
    arrays: data by name.
  """

  def __init__(self, lookups: Lookups):
    """Names the arrays of the lookups."""
    kinds = {'memory': Counts, 'text': Similarity}
    self._named = {name: kinds[name](each) for name, each in lookups.named.items()}
    self._adds = [name for name, each in lookups.named.items() if each.candidates]
    self.arrays = {name: x for each in self._named.values() for name, x in each.arrays.items()}

  def read(self, arrays: Arrays, history_BE: jax.Array) -> dict[str, jax.Array]:
    """Returns by name what a lookup knows about histories."""
    return {name: each.read(arrays, history_BE) for name, each in self._named.items()}

  def best(
    self, arrays: Arrays, known: dict[str, jax.Array], excluded_BE: jax.Array, masks: RowMasks
  ) -> Any:
    """Returns the distinct best items of all lookups that are not excluded and in the masks, int32 `[B, N]`.

    None: the lookups add none.
    """
    found_BN = None
    for name in self._adds:
      items_BN = self._named[name].best(arrays, known[name], excluded_BE, masks)
      if found_BN is not None:
        is_known_BN = (items_BN[:, :, None] == found_BN[:, None, :]).any(axis=2)
        items_BN = jnp.concatenate([found_BN, jnp.where(is_known_BN, -1, items_BN)], axis=1)
      found_BN = items_BN
    return found_BN

  def scored(self, arrays: Arrays, known: dict[str, jax.Array], found: Candidates) -> Candidates:
    """Returns candidates with the scores of the lookups."""
    scores = {
      f'{name}_BM': each.scores(arrays, known[name], found.items_BM)
      for name, each in self._named.items()
    }
    return found._replace(**scores)
