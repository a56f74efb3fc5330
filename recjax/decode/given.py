"""Exact scores of given items after prompts, without a search; `recjax.decode.candidates` explains the scores."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.decode.batches import over_prompts
from recjax.decode.candidates import Candidates, head_scores
from recjax.decode.loaded import Loaded, merged
from recjax.decode.scores import scores_after
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace


class Given:
  """Scores given items with the model of a run: each by its semantic ID and, with an item head, by its row."""

  def __init__(
    self,
    model: Model,
    space: TokenSpace,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    timeout: float = 0.0,
  ):
    """Prepares the scoring; `timeout` is that of a batch in seconds, with its compilation, 0: none."""
    self._space, self._mesh, self._batch_size, self._timeout = space, mesh, batch_size, timeout
    graph = models.graph(model, space)
    kinds = tuple((level,) for level in range(space.num_levels))

    def scores(params, trie, items, batch):
      bound = merged(graph, model, space, params, trie, items)
      prompts = {name: batch[name] for name in ('tokens', 'lengths')}
      items_BN, tokens_BNL = batch['items'], batch['item_tokens']
      x_BD, cache = bound.start(prompts, 1, max(space.num_levels - 1, 1))
      head_BN = None
      if model.item_head:
        head_BI = head_scores(bound, getattr(cache, 'item_state_BD', x_BD))
        head_BN = jnp.take_along_axis(head_BI, items_BN, axis=1)
      lengths_BN = jnp.full(items_BN.shape, space.num_levels)
      codes_BN = scores_after(bound, x_BD, cache, tokens_BNL, lengths_BN, kinds, model.sid_softmax)
      return Candidates(items_BN, codes_BN, head_BN)

    self._scores = jax.jit(scores, out_shardings=mesh_lib.replicated(mesh))

  def candidates(
    self,
    params,
    loaded: Loaded,
    prompts: Sequence[np.ndarray],
    items_UN: np.ndarray,
    length: int | None = None,
    progress: str | None = None,
  ) -> Candidates:
    """Returns given items with their scores, numpy arrays `[U, N]`; independent of batch size and devices.

    Args:
      params: parameters on the mesh.
      loaded: the catalogue.
      prompts: U arrays of int32 tokens, none empty.
      items_UN: int, items of every prompt; -1 is padding, whose scores are -inf.
      length: every prompt has room for this number of tokens, and the batch and the lists have sizes that are powers
        of two, so that other calls use the same compiled program. None: they are as small as may be.
      progress: label of the progress bar. None: no bar.
    """
    U, N = items_UN.shape
    B = self._batch_size
    if length is not None:
      B, N = min(B, _power_of_two(U)), max(_power_of_two(N), 16)
    if not N:
      return Candidates(*[np.empty((U, 0), dtype) for dtype in (np.int32, np.float32)])
    codes_IL = loaded.catalogue.dataset.sids.codes_IL
    padded_UN = np.full((U, N), -1, np.int32)
    padded_UN[:, : items_UN.shape[1]] = items_UN

    def columns(rows_B: np.ndarray) -> dict[str, np.ndarray]:
      items_BN = np.maximum(padded_UN[rows_B], 0)
      return {'items': items_BN, 'item_tokens': self._space.tokens(codes_IL[items_BN])}

    found = over_prompts(
      *(
        functools.partial(self._scores, params, loaded.trie, loaded.items),
        prompts,
        self._mesh,
        B,
        columns,
      ),
      timeout=self._timeout,
      progress=progress,
      length=length,
    )
    found = found._replace(items_BM=padded_UN)
    found = jax.tree.map(lambda x: x[:, : items_UN.shape[1]], found)
    hide = lambda x: None if x is None else np.where(items_UN < 0, np.float32(-np.inf), x)  # noqa: E731
    return found._replace(codes_BM=hide(found.codes_BM), head_BM=hide(found.head_BM))


def _power_of_two(n: int) -> int:
  return 1 << (max(n, 1) - 1).bit_length()
