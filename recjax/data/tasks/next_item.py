"""next_item: history → the next item's semantic ID."""

import numpy as np

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences
from recjax.data.tasks import Example


class NextItem:
  """Every position of a training sequence after its first item is a target exactly once an epoch.

  For a decoder the unit is a window of at most `max_items` items of one user, learnt at every position in
  one row. A longer user becomes overlapping windows, half a window apart; the items before a window's
  first target are context. For an encoder–decoder the unit is a (user, position) pair: at most
  `max_items - 1` items of history, one target.

  Example: a user of the items i1, i2, i3 with SIDs (7, 2, 0), (3, 9, 0), (7, 1, 1) gives a decoder
    inputs  <bos> <a_7> <b_2> <c_0>
    targets <a_3> <b_9> <c_0> <a_7> <b_1> <c_1>
  and an encoder–decoder two examples, of which the second is
    inputs  <a_7> <b_2> <c_0> <a_3> <b_9> <c_0> <eos>
    targets <a_7> <b_1> <c_1>
  A `prompt`, if there is one, stands before the first item.
  """

  has_text_targets = False

  def __init__(self, component: config_lib.Component, dataset: Dataset, is_encoder_decoder: bool):
    vocabulary = dataset.vocabulary
    self._max_items = component.max_items
    self._sid_tokens_IL = vocabulary.space.tokens(dataset.sids.codes_IL)
    prompt = vocabulary.encode(component.prompt) if component.prompt else []
    first, last = ([], [vocabulary.eos_id]) if is_encoder_decoder else ([vocabulary.bos_id], [])
    self._head = np.array([*first, *prompt], np.int32)
    self._tail = np.array(last, np.int32)
    self._items = dataset.train.values
    units = _pairs if is_encoder_decoder else _windows
    self._starts, self._sizes, self._contexts = units(dataset.train, component.max_items)

  def __len__(self) -> int:
    return len(self._starts)

  def example(self, unit: int, draw: int) -> Example:
    del draw  # nothing is random
    start, size, context = self._starts[unit], self._sizes[unit], self._contexts[unit]
    tokens_IL = self._sid_tokens_IL[self._items[start : start + size]]
    history = tokens_IL[:context].ravel()
    inputs = np.concatenate([self._head, history, self._tail])
    at = len(self._head)
    return Example(inputs, tokens_IL[context:].ravel(), (at, at + len(history), tokens_IL.shape[1]))

  @property
  def max_prompt_length(self) -> int:
    """The longest prompt in tokens: one item less than a window, whose last item is the target."""
    items = (self._max_items - 1) * self._sid_tokens_IL.shape[1]
    return len(self._head) + items + len(self._tail)

  def prompt(self, history: np.ndarray) -> np.ndarray:
    """The tokens, int32, from which the item after a history (item indices) is predicted."""
    recent = np.asarray(history)[-(self._max_items - 1) :]
    return np.concatenate([self._head, self._sid_tokens_IL[recent].ravel(), self._tail])


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
  users, nth = _enumerate(counts_U)
  ends = np.minimum(max_items + nth * stride, lengths_U[users])
  starts = np.maximum(ends - max_items, 0)
  first_targets = np.where(nth == 0, 1, max_items + (nth - 1) * stride)
  return (
    train.offsets[users] + starts,
    (ends - starts).astype(np.int32),
    (first_targets - starts).astype(np.int32),
  )


def _pairs(train: Sequences, max_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """One unit for every position after the first, as `_windows` gives them: the target is the last item."""
  users, nth = _enumerate(np.maximum(train.lengths - 1, 0))
  starts = np.maximum(nth + 2 - max_items, 0)
  sizes = (nth + 2 - starts).astype(np.int32)
  return train.offsets[users] + starts, sizes, sizes - 1


def _enumerate(counts_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For each unit its user and its number among the user's units."""
  users = np.repeat(np.arange(len(counts_U)), counts_U)
  return users, np.arange(len(users)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
