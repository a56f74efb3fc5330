"""The data set as tokens, from which tasks make examples: items, units of sequences, negatives."""

import functools
from typing import Any

import numpy as np

from recjax.data import arrays
from recjax.data.dataset import Dataset
from recjax.data.prompts import Format, Prompter
from recjax.data.sequences import Sequences, offsets_of
from recjax.data.units import Likes, Positions, Windows, rated_marks, target_marks
from recjax.data.vocabulary import SENTINELS

SHOWN = ('sid', 'title', 'both')  # how an item is shown
NEGATIVES = ('popularity', 'uniform')  # how negatives are drawn
ROUNDS = 20  # rounds of rejection sampling; then the remaining items are listed


class Corpus:
  """A data set as tokens, for one kind of backbone.

  Arrays over the catalogue or the log are computed at their first use and kept, one for every distinct setting
  of the mixture. `shown` and `titles` take 4 bytes per token and 8 bytes per item each.

  Attributes:
    dataset: the prepared data.
    train: the training sequences, as item indices.
    prompter: turns wordings into tokens, in the format of the backbone.
    sid_tokens_IL: int32, each item's semantic ID as tokens.
    items_alone: whether the model reads items and no words (`recjax.models.family.Family`).
    mask: int32, what replaces a masked item: a token, or for a model of items alone as many as an item has codes.
    sentinels: int32, our own tokens that replace hidden spans.
    t5_sentinels: int32, those of an encoder–decoder's tokenizer; our own if it has none.
  """

  def __init__(self, dataset: Dataset, is_encoder_decoder: bool, items_alone: bool = False):
    self.dataset, self.items_alone = dataset, items_alone
    self.train = Sequences(arrays.plain(dataset.train.values), arrays.plain(dataset.train.offsets))
    self.prompter = Prompter(dataset.vocabulary, Format.of(dataset.vocabulary, is_encoder_decoder))
    self.sid_tokens_IL = dataset.vocabulary.space.tokens(dataset.sids.codes_IL)
    self._separator = dataset.vocabulary.special_id('<separator>')
    size = self.sid_tokens_IL.shape[1] if items_alone else 1
    self.mask = np.full(size, dataset.vocabulary.special_id('<mask>'), np.int32)
    self.sentinels = np.array(
      [dataset.vocabulary.special_id(f'<sentinel_{n}>') for n in range(SENTINELS)], np.int32
    )
    own = dataset.vocabulary.sentinels if is_encoder_decoder else None
    self.t5_sentinels = self.sentinels if own is None else np.array(own, np.int32)
    # Caches of this object, without a limit: an evicted array would be computed again at every example.
    self.windows = functools.cache(self._windows)
    self.likes = functools.cache(self._likes)
    self.related_items = functools.cache(self._related_items)
    self.shown = functools.cache(self._shown)
    self.titles = functools.cache(self._titles)

  def __reduce__(self):
    return Corpus, (self.dataset, self.is_encoder_decoder, self.items_alone)

  @classmethod
  def of(cls, dataset: Dataset, family: Any) -> 'Corpus':
    """Returns the corpus for a family of backbones (`recjax.models.family.Family`)."""
    return cls(dataset, family.is_encoder_decoder, family.reads_items_alone)

  @property
  def is_encoder_decoder(self) -> bool:
    """Whether inputs and targets go to different stacks."""
    return self.prompter.form.is_encoder_decoder

  def lacks(self, needs: frozenset[str]) -> list[str]:
    """Returns the entries of `needs` that the data set lacks: 'ratings', 'times', 'titles', …"""
    has = {
      'ratings': lambda: self.dataset.train_ratings is not None,
      'times': lambda: self.dataset.ticks_per_second > 0,
      'events': lambda: self.dataset.train_events is not None,
      'titles': lambda: bool(self.dataset.titles.lengths.any()),
      'collaborative': lambda: self.dataset.collaborative is not None,
      'semantic': lambda: self.dataset.semantic is not None,
      'keywords': lambda: self.dataset.keywords is not None,
    }
    return [need for need in sorted(needs) if not has[need]()]

  # --- units

  def _windows(self, max_items: int) -> Windows:
    """Overlapping windows of every user; see `Windows`."""
    return Windows(self.train, max_items, target_marks(self.dataset))

  @functools.cached_property
  def positions(self) -> Positions:
    """Every (user, position) after the first that may be a target; see `Positions`."""
    return Positions(self.train, target_marks(self.dataset))

  @functools.cached_property
  def rated_positions(self) -> Positions:
    """Every (user, position) after the first with a rating."""
    return Positions(self.train, rated_marks(self.dataset))

  def is_target(self, start: int, size: int) -> np.ndarray:
    """Returns which interactions of a part of the flat training array may be targets, bool `[size]`."""
    marked = target_marks(self.dataset)
    return np.ones(size, bool) if marked is None else marked[start : start + size]

  def _likes(self, liked_from: float) -> Likes:
    """Liked items of users who rated another item lower than `liked_from`; see `Likes`."""
    return Likes(self.train, self.dataset.train_ratings, liked_from)

  @functools.cached_property
  def titled_items(self) -> np.ndarray:
    """int64: the items that have a title or another text."""
    return np.flatnonzero(self.dataset.titles.lengths)

  def _related_items(self, relation: str) -> np.ndarray:
    """int64: the items that have neighbours; `relation` is 'collaborative' or 'semantic'."""
    return np.flatnonzero(getattr(self.dataset, relation).lengths)

  # --- items as tokens

  def _shown(self, show: str, title_tokens: int) -> Sequences:
    """Every item as tokens: its semantic ID, its title after a cut and a separator, or both (the ID first)."""
    I, L = self.sid_tokens_IL.shape  # noqa: E741
    if show == 'sid':
      return Sequences(self.sid_tokens_IL.ravel(), offsets_of(np.full(I, L)))
    titles = self.titles(title_tokens)
    head = L if show == 'both' else 0
    offsets = offsets_of(head + titles.lengths + 1)
    values = np.empty(offsets[-1], np.int32)
    values[offsets[1:] - 1] = self._separator
    if head:
      values[offsets[:-1, None] + np.arange(L)] = self.sid_tokens_IL
    values[np.repeat(offsets[:-1] + head, titles.lengths) + titles.places] = titles.values
    return Sequences(values, offsets)

  def _titles(self, tokens: int) -> Sequences:
    """The tokens of every item's title, cut after `tokens` tokens."""
    return self.dataset.titles.cut(tokens)

  def items(
    self, items: np.ndarray, show: str, title_tokens: int
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the concatenated tokens of items, int32, and the number of tokens of each item."""
    if show == 'sid':
      L = self.sid_tokens_IL.shape[1]
      return self.sid_tokens_IL[items].ravel(), (L,) * len(items)
    chosen = self.shown(show, title_tokens).take(items)
    return chosen.values, tuple(chosen.lengths.tolist())

  # --- negatives

  @functools.cached_property
  def _counts(self) -> np.ndarray:
    """Training interactions of each item, int64 `[I]`."""
    return self.train.counts(self.dataset.num_items)

  @functools.cached_property
  def _popularity(self) -> np.ndarray:
    """Cumulative shares of the training interactions, float64 `[I]`. Items without any count as one."""
    cumulative = np.cumsum(np.maximum(self._counts, 1), dtype=np.float64)
    return cumulative / cumulative[-1]

  def by_popularity(self, items: np.ndarray) -> np.ndarray:
    """Returns the items sorted by descending number of training interactions, then by index."""
    return items[np.lexsort((items, -self._counts[items]))]

  def negatives(
    self, rng: np.random.Generator, excluded: np.ndarray, count: int, weighting: str
  ) -> np.ndarray:
    """Draws distinct items that are not in `excluded`: their indices, int64 `[count]`.

    Args:
      rng: the source of randomness.
      excluded: item indices.
      count: number of items. If fewer are left, all of them are returned.
      weighting: 'popularity' (in proportion to training interactions) or 'uniform'.
    """
    chosen: list[int] = []
    taken = set(excluded.tolist())
    for _ in range(ROUNDS):
      drawn = rng.random(2 * (count - len(chosen)) + 4)
      if weighting == 'popularity':
        items = np.searchsorted(self._popularity, drawn, side='right')
      else:
        items = (drawn * self.dataset.num_items).astype(np.int64)
      for item in items.tolist():
        if item not in taken:
          taken.add(item)
          chosen.append(item)
          if len(chosen) == count:
            return np.array(chosen, np.int64)
    # Nearly every item is excluded: take the remaining ones in random order.
    rest = np.setdiff1d(np.arange(self.dataset.num_items), np.fromiter(taken, np.int64, len(taken)))
    return np.array([*chosen, *rng.permutation(rest)[: count - len(chosen)]], np.int64)

  def check_room(self, needed: int, field: str, got: int) -> None:
    """Raises a ValueError if the catalogue has fewer than `needed` items."""
    if needed > self.dataset.num_items:
      raise ValueError(
        f'{field} must leave room in the catalogue of {self.dataset.num_items} items; got {got}. '
        f'Set --config.{field}'
      )

  # --- SID tokens and their descriptions

  @functools.cached_property
  def descriptions(self) -> tuple[np.ndarray, Sequences]:
    """The SID tokens with a description, int32 `[n]`, and the tokens of each description."""
    ids, texts = [], []
    names = self.dataset.vocabulary.space.sid_names
    index = {name: self.dataset.vocabulary.space.sid_start + n for n, name in enumerate(names)}
    for entry in self.dataset.keywords:
      if entry['token'] in index and entry['description'].strip():
        ids.append(index[entry['token']])
        texts.append(self.prompter.text(entry['description']))
    return np.array(ids, np.int32), Sequences.from_lists(texts)
