"""The ranked items of the rows of a split: the result of every ranker, a model or a baseline."""

import dataclasses

import numpy as np

from recjax.metrics import ranking


@dataclasses.dataclass(frozen=True)
class Ranked:
  """Ranked items of U rows, K for each.

  Attributes:
    items_UK: item indices int32, best first; -1 after the end of a list.
    scores_UK: their scores float32, which fall from left to right. None: the ranker gives none.
    ranks_U: 0-based rank of every row's target, int64; at least K if the target is absent, and then also at least
      the largest cut-off.
    seconds: seconds that the ranking took.
  """

  items_UK: np.ndarray
  scores_UK: np.ndarray | None
  ranks_U: np.ndarray
  seconds: float

  @classmethod
  def of(
    cls,
    items_UK: np.ndarray,
    scores_UK: np.ndarray | None,
    targets_U: np.ndarray,
    depth: int,
    seconds: float,
  ) -> 'Ranked':
    """Returns a ranking with the ranks of its targets.

    Args:
      items_UK: see the class.
      scores_UK: see the class.
      targets_U: item indices, the target of every row.
      depth: the largest cut-off. In lists that are shorter than it, an absent target still counts at no cut-off.
      seconds: see the class.
    """
    missing = max(depth - items_UK.shape[1], 0)
    padded_UK = np.pad(items_UK, ((0, 0), (0, missing)), constant_values=-1)
    ranks_U = ranking.target_ranks(padded_UK, targets_U)
    return cls(np.asarray(items_UK, np.int32), scores_UK, ranks_U, seconds)

  def take(self, rows: np.ndarray) -> 'Ranked':
    """Returns the ranking of some rows; `seconds` is their share."""
    scores = None if self.scores_UK is None else self.scores_UK[rows]
    share = len(rows) / max(len(self.ranks_U), 1)
    return Ranked(self.items_UK[rows], scores, self.ranks_U[rows], self.seconds * share)
