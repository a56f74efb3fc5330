"""What one-hop counting recommends: the items that followed those of a history in training sequences."""

from collections.abc import Collection, Sequence

import numpy as np

from recjax.baselines import transitions
from recjax.baselines.split import Split
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences


class OneHop:
  """The transitions baseline of a run, counted once, for histories of item ids."""

  def __init__(self, dataset: Dataset):
    """Counts the direct successors of every item in the training sequences."""
    self._ids = [item['id'] for item in dataset.items]
    self._index = {id: i for i, id in enumerate(self._ids)}
    self._successors = transitions.count_successors(
      dataset.train, dataset.num_items, dataset.train_is_target
    )

  def recommend(self, history: Sequence[str], k: int, hidden: Collection[str] = ()) -> list[str]:
    """Returns at most k item ids, best first; see `recjax.baselines.transitions.recommend`.

    Args:
      history: item ids, oldest first; unknown ones are left out.
      k: items to return.
      hidden: ids that are left out, beside those of the history.
    """
    items = np.array([self._index[id] for id in history if id in self._index], np.int32)
    rows = Sequences(items, np.array([0, len(items)]))
    none = Sequences(np.empty(0, np.int32), np.zeros(1, np.int64))
    most = int(self._successors.items.lengths[items].sum())
    split = Split(none, none, rows, len(self._ids), most)
    ranked = transitions.rank(self._successors, split)[0] if most else []
    found = (self._ids[i] for i in ranked if i >= 0)
    return [id for id in found if id not in hidden][:k]
