"""Baselines that score given candidates; `CANDIDATE_BASELINES` lists them by name.

They are the rankers of the same names in `recjax.baselines`, for the candidates of each row instead of the catalogue.
Items of the history are scored like others: they are candidates only where the user gives them.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from recjax.baselines.split import Split
from recjax.baselines.transitions import DECAY, count_successors
from recjax.data.decay import decayed

BLOCK_ROWS = 1 << 12  # rows whose scores are computed at once


def popularity(split: Split, candidates_RN: np.ndarray) -> np.ndarray:
  """Scores candidates by their number of interactions in `split.counted`, float64 `[R, N]`."""
  counts_I = np.bincount(split.counted.values, minlength=split.num_items)
  return counts_I[candidates_RN].astype(np.float64)


def transitions(split: Split, candidates_RN: np.ndarray) -> np.ndarray:
  """Scores candidates by decayed direct-successor counts, float64 `[R, N]`; see `transitions.recommend`."""
  found = count_successors(split.train, split.num_items, split.train_is_target)
  shape = (split.num_items, split.num_items)
  successors = scipy.sparse.csr_array(
    (found.counts, found.items.values, found.items.offsets), shape
  )
  scores_RN = np.zeros(candidates_RN.shape)
  for start in range(0, len(candidates_RN), BLOCK_ROWS):
    candidates_BN = candidates_RN[start : start + BLOCK_ROWS]
    histories = split.histories.take(np.arange(start, start + len(candidates_BN)))
    scores = decayed(histories, DECAY, split.num_items) @ successors
    rows = np.repeat(np.arange(len(candidates_BN)), candidates_BN.shape[1])
    at = np.maximum(candidates_BN, 0).ravel()
    scores_RN[start : start + BLOCK_ROWS] = np.asarray(scores[rows, at]).reshape(
      candidates_BN.shape
    )
  return scores_RN


# (split of the R rows, candidates int [R, N], -1 is padding) -> scores float64 [R, N], higher is better.
CANDIDATE_BASELINES: dict[str, Callable[[Split, np.ndarray], np.ndarray]] = {
  'popularity': popularity,
  'transitions': transitions,
}
