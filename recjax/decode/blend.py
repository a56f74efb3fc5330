"""The final order of candidates: a weighted sum of their scores.

The score of an item is (1 - h) · codes + h · head + m · memory + t · text. With β = h / (1 - h) and γ = m / (1 - h) and no
text the order is that of codes + β · head + γ · memory; h = 1 stands for an infinite β. `recjax.metrics.weights` chooses
the weights.
"""

from typing import NamedTuple

import numpy as np

from recjax.decode.candidates import Candidates


class Weights(NamedTuple):
  """Weights of the score; see the module.

  Attributes:
    head: share h of the item head; the codes have the rest.
    memory: weight m of the memory.
    text: weight t of the similarity of texts.
  """

  head: float = 0.0
  memory: float = 0.0
  text: float = 0.0


CODES, HEAD = Weights(), Weights(head=1.0)


def alone(candidates: Candidates) -> dict[str, Weights]:
  """Returns the rankers by one score of the model: `codes`, with an item head `head`; none if there is one score."""
  if candidates.head_BM is not None:
    return {'codes': CODES, 'head': HEAD}
  others = (candidates.memory_BM, candidates.text_BM)
  return {} if all(each is None for each in others) else {'codes': CODES}


def scores(candidates: Candidates, weights: Weights) -> np.ndarray:
  """Returns the score of every candidate, float32 `[U, M]`; -inf for padding. An absent score counts as 0.

  The arrays are of numpy or, inside a jitted function, of jax.
  """
  xp = candidates.items_BM.__array_namespace__()
  parts = [
    (1 - weights.head, candidates.codes_BM),
    (weights.head, candidates.head_BM),
    (weights.memory, candidates.memory_BM),
    (weights.text, candidates.text_BM),
  ]
  total_UM = xp.zeros(candidates.items_BM.shape, np.float32)
  is_item_UM = candidates.items_BM >= 0
  for weight, scores_UM in parts:
    if weight and scores_UM is not None:
      total_UM += np.float32(weight) * xp.where(is_item_UM, scores_UM, np.float32(0))
  return xp.where(is_item_UM, total_UM, np.float32(-np.inf))


def ranked(candidates: Candidates, weights: Weights, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best `count` candidates, int32 `[U, count]`, -1 after the end, and their scores; ties keep their order."""
  scores_UM = scores(candidates, weights)
  xp = scores_UM.__array_namespace__()
  order_UM = xp.argsort(-scores_UM, axis=1, stable=True)[:, :count]
  return (
    xp.take_along_axis(candidates.items_BM, order_UM, axis=1),
    xp.take_along_axis(scores_UM, order_UM, axis=1),
  )
