"""Scores of candidates that are looked up instead of predicted: counts of training, similarities of texts."""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
from typing import Any

import numpy as np

from recjax.data import arrays
from recjax.data.dataset import Dataset
from recjax.decode.candidates import Candidates
from recjax.decode.masks import Mask
from recjax.decode.memory import Memory
from recjax.decode.text_similarity import TextSimilarity
from recjax.schema.blend import NONE
from recjax.schema.run import Eval

_VECTORS = 'embeddings.npy'


def text_vectors(dataset: Dataset) -> np.ndarray:
  """Returns the encoder's vector of every item's text, float32 `[I, D]`; see `arrays.load`.

  Raises:
    ValueError: the preparation has made none.
  """
  path = dataset.folder / 'text_embeddings' / _VECTORS
  if not path.exists():
    raise ValueError(
      f'eval.text.vectors needs text vectors, but {path} does not exist. Set --config.eval.text.vectors=none, or '
      'prepare the data with an encoder (--config.sids.encoder)'
    )
  return arrays.load(path)


class Lookups:
  """The lookups of a run by the name of their weight, `memory` and `text`; none if its settings name none.

  Attributes:
    candidates: number of items of `best`.
  """

  def __init__(self, settings: Eval, dataset: Dataset, adds: bool = True):
    """Counts the training part and reads the text vectors, where the settings name them.

    Args:
      settings: the eval section.
      dataset: the prepared data.
      adds: whether the lookups have candidates of their own.

    Raises:
      ValueError: the preparation holds no text vectors.
    """
    memory, self._text = settings.memory, settings.text
    if not adds:
      memory, self._text = (
        dataclasses.replace(each, candidates=0) for each in (memory, self._text)
      )
    self._named: dict[str, Memory | TextSimilarity] = {}
    if memory.counts != NONE:
      self._named['memory'] = Memory(
        memory, dataset.train, dataset.num_items, dataset.train_is_target
      )
    if self._text.vectors != NONE:
      self._named['text'] = TextSimilarity(self._text, text_vectors(dataset))
    self.candidates = sum(each.candidates for each in self._named.values())

  @property
  def named(self) -> Mapping[str, Memory | TextSimilarity]:
    """The lookups by name."""
    return self._named

  def moved(self, place_I: np.ndarray, dataset: Dataset) -> 'Lookups':
    """Returns the lookups for another catalogue: the counts of the same training, the text vectors of its own items.

    Args:
      place_I: see `Memory.moved`.
      dataset: the prepared data of the other catalogue.

    Raises:
      ValueError: its preparation holds no text vectors.
    """
    other = copy.copy(self)
    other._named = dict(self._named)
    if 'memory' in self._named:
      other._named['memory'] = self._named['memory'].moved(place_I)
    if 'text' in self._named:
      other._named['text'] = TextSimilarity(self._text, text_vectors(dataset))
    return other

  def read(self, histories: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns by name what a lookup knows about histories of item indices; see its `read`."""
    return {name: each.read(histories) for name, each in self._named.items()}

  def best(
    self,
    known: dict[str, Any],
    excluded: Sequence[np.ndarray],
    masks: Sequence[Mask | None] | None = None,
  ) -> np.ndarray:
    """Returns the distinct best items of all lookups that are not excluded, int32 `[U, candidates]`; -1 is padding.

    Args:
      known: of `read`.
      excluded: for each row the item indices that must not be returned.
      masks: for each row the items that may be returned; None: all.
    """
    lists = [each.best(known[name], excluded, masks) for name, each in self._named.items()]
    items_UN = np.concatenate([np.empty((len(excluded), 0), np.int32), *lists], axis=1)
    order_UN = np.argsort(items_UN, axis=1, kind='stable')
    sorted_UN = np.take_along_axis(items_UN, order_UN, axis=1)
    is_repeat_UN = np.zeros(items_UN.shape, bool)
    is_repeat = sorted_UN[:, 1:] == sorted_UN[:, :-1]
    np.put_along_axis(is_repeat_UN, order_UN[:, 1:], is_repeat, axis=1)
    return np.where(is_repeat_UN, np.int32(-1), items_UN)

  def scored(self, known: dict[str, Any], found: Candidates) -> Candidates:
    """Returns candidates, numpy arrays, with the scores of the lookups."""
    scores = {
      f'{name}_BM': each.scores(known[name], found.items_BM) for name, each in self._named.items()
    }
    return found._replace(**scores)
