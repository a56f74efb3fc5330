"""next_item: history → the next item's semantic ID."""

import numpy as np

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences
from recjax.data.tasks import Example


class NextItem:
  """A decoder learns every position of a user's sequence in one row.

  Unit: a window of at most `max_items` items of one user's training sequence. A longer user becomes
  overlapping windows, half a window apart, in which each position after the user's first item is a
  target exactly once; the items before a window's first target are context.

  Example: a user of the items i1, i2, i3 with SIDs (7, 2, 0), (3, 9, 0), (7, 1, 1) gives
    inputs  <bos> <a_7> <b_2> <c_0>
    targets <a_3> <b_9> <c_0> <a_7> <b_1> <c_1>
  A `prompt`, if there is one, stands between <bos> and the first item.
  """

  has_text_targets = False

  def __init__(self, component: config_lib.Component, dataset: Dataset):
    vocabulary = dataset.vocabulary
    self._max_items = component.max_items
    self._sid_tokens_IL = vocabulary.space.tokens(dataset.sids.codes_IL)
    prompt = vocabulary.encode(component.prompt) if component.prompt else []
    self._head = np.array([vocabulary.bos_id, *prompt], np.int32)
    self._items = dataset.train.values
    self._starts, self._sizes, self._contexts = _windows(dataset.train, component.max_items)

  def __len__(self) -> int:
    return len(self._starts)

  def example(self, unit: int, draw: int) -> Example:
    del draw  # nothing is random
    start, size, context = self._starts[unit], self._sizes[unit], self._contexts[unit]
    tokens_IL = self._sid_tokens_IL[self._items[start : start + size]]
    inputs = np.concatenate([self._head, tokens_IL[:context].ravel()])
    return Example(
      inputs, tokens_IL[context:].ravel(), (len(self._head), len(inputs), tokens_IL.shape[1])
    )

  @property
  def max_prompt_length(self) -> int:
    """The longest prompt in tokens: one item less than a window, whose last item is the target."""
    return len(self._head) + (self._max_items - 1) * self._sid_tokens_IL.shape[1]

  def prompt(self, history: np.ndarray) -> np.ndarray:
    """The tokens, int32, from which the item after a history (item indices) is predicted."""
    recent = np.asarray(history)[-(self._max_items - 1) :]
    return np.concatenate([self._head, self._sid_tokens_IL[recent].ravel()])


def _windows(train: Sequences, max_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Windows of every user with at least two items.

  Returns:
    starts int64 `[W]` into `train.values`, sizes int32 `[W]`, and contexts int32 `[W]`: the items of
    the window that come before its first target.
  """
  lengths_U = train.lengths
  stride = max_items // 2
  extra_U = np.maximum(lengths_U - max_items, 0)
  counts_U = np.where(lengths_U >= 2, 1 + -(-extra_U // stride), 0)
  users = np.repeat(np.arange(len(lengths_U)), counts_U)
  nth = np.arange(len(users)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
  ends = np.minimum(max_items + nth * stride, lengths_U[users])
  starts = np.maximum(ends - max_items, 0)
  first_targets = np.where(nth == 0, 1, max_items + (nth - 1) * stride)
  return (
    train.offsets[users] + starts,
    (ends - starts).astype(np.int32),
    (first_targets - starts).astype(np.int32),
  )
