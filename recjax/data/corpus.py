"""The tokenised data set that tasks draw from: items as tokens, units of sequences, negatives, relations."""

from collections.abc import Sequence
import functools

import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.prompts import Format, Prompter
from recjax.data.sequences import Sequences
from recjax.data.units import Positions, Windows
from recjax.data.vocabulary import SENTINELS

SHOWN = ('sid', 'title', 'both')  # what an item can be shown as
NEGATIVES = ('popularity', 'uniform')
ROUNDS = 20  # of drawing negatives anew where they hit what the user has


class Corpus:
  """A data set as tokens, for one kind of backbone.

  Attributes:
    dataset: the prepared data.
    train: the training sequences, as item indices.
    prompter: wordings to tokens, in the format of the backbone.
    sid_tokens_IL: int32, each item's semantic ID as tokens.
    mask: int32 `[1]`, the token that stands for a masked item.
    sentinels: int32, the tokens that stand for hidden spans of text.
  """

  def __init__(self, dataset: Dataset, is_encoder_decoder: bool):
    self.dataset = dataset
    # Plain views of the mapped files: slices of `np.memmap` itself cost more than what is read.
    self.train = Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets))
    self.prompter = Prompter(dataset.vocabulary, Format.of(dataset.vocabulary, is_encoder_decoder))
    self.sid_tokens_IL = dataset.vocabulary.space.tokens(dataset.sids.codes_IL)
    self._separator = dataset.vocabulary.special_id('<separator>')
    self.mask = np.array([dataset.vocabulary.special_id('<mask>')], np.int32)
    self.sentinels = np.array(
      [dataset.vocabulary.special_id(f'<sentinel_{n}>') for n in range(SENTINELS)], np.int32
    )

  def __reduce__(self):
    return Corpus, (self.dataset, self.is_encoder_decoder)

  @property
  def is_encoder_decoder(self) -> bool:
    return self.prompter.form.is_encoder_decoder

  def lacks(self, needs: frozenset[str]) -> list[str]:
    """What of ratings, times, events, titles, relations and keywords the data set does not have."""
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

  @functools.lru_cache(maxsize=64)  # noqa: B019 - a corpus lives as long as its run
  def windows(self, max_items: int) -> Windows:
    """Overlapping windows of every user; see `Windows`."""
    return Windows(self.train, max_items)

  @functools.cached_property
  def positions(self) -> Positions:
    """Every (user, position) after the first; see `Positions`."""
    return Positions(self.train)

  @functools.cached_property
  def titled_items(self) -> np.ndarray:
    """int64: the items that have a title or another text."""
    return np.flatnonzero(self.dataset.titles.lengths)

  @functools.lru_cache(maxsize=2)  # noqa: B019
  def related_items(self, relation: str) -> np.ndarray:
    """int64: the items that have neighbours; `relation` is 'collaborative' or 'semantic'."""
    return np.flatnonzero(getattr(self.dataset, relation).lengths)

  # --- items as tokens

  @functools.lru_cache(maxsize=8)  # noqa: B019
  def shown(self, show: str, title_tokens: int) -> Sequences:
    """What each item is shown as: its semantic ID, its title and a separator, or both.

    Args:
      show: 'sid', 'title' or 'both' (the semantic ID first).
      title_tokens: titles are cut here.
    """
    I, L = self.sid_tokens_IL.shape  # noqa: E741
    if show == 'sid':
      return Sequences(self.sid_tokens_IL.ravel(), np.arange(I + 1, dtype=np.int64) * L)
    titles = self.titles(title_tokens)
    blocks = [self.sid_tokens_IL] if show == 'both' else []
    head = sum(block.shape[1] for block in blocks)
    lengths = head + titles.lengths + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.empty(offsets[-1], np.int32)
    values[offsets[1:] - 1] = self._separator
    if blocks:
      values[offsets[:-1, None] + np.arange(L)] = self.sid_tokens_IL
    at = np.arange(len(titles.values)) - np.repeat(titles.offsets[:-1], titles.lengths)
    values[np.repeat(offsets[:-1] + head, titles.lengths) + at] = titles.values
    return Sequences(values, offsets)

  @functools.lru_cache(maxsize=8)  # noqa: B019
  def titles(self, tokens: int) -> Sequences:
    """The pieces of every item's title, cut at `tokens`."""
    titles = self.dataset.titles
    lengths = np.minimum(titles.lengths, tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Sequences(titles.values[np.repeat(titles.offsets[:-1], lengths) + at], offsets)

  def items(
    self, items: np.ndarray, show: str, title_tokens: int
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    """The tokens of items, one after the other, and how many each takes."""
    if show == 'sid':
      L = self.sid_tokens_IL.shape[1]
      return self.sid_tokens_IL[items].ravel(), (L,) * len(items)
    chosen = self.shown(show, title_tokens).take(items)
    return chosen.values, tuple(chosen.lengths.tolist())

  # --- negatives

  @functools.cached_property
  def _counts(self) -> np.ndarray:
    """Training interactions of each item, int64 `[I]`."""
    return np.bincount(self.train.values, minlength=self.dataset.num_items)

  @functools.cached_property
  def _popularity(self) -> np.ndarray:
    """Cumulative shares of the training interactions, float64 `[I]`; every item counts at least once."""
    cumulative = np.cumsum(np.maximum(self._counts, 1), dtype=np.float64)
    return cumulative / cumulative[-1]

  def by_popularity(self, items: np.ndarray) -> np.ndarray:
    """The items, those with more training interactions first; ties by index."""
    return items[np.lexsort((items, -self._counts[items]))]

  def negatives(
    self, rng: np.random.Generator, excluded: np.ndarray, count: int, weighting: str
  ) -> np.ndarray:
    """Different items outside `excluded`.

    Args:
      rng: where they are drawn from.
      excluded: item indices, such as all that the user has in training.
      count: how many; at most so many as there are others.
      weighting: 'popularity' (in proportion to training interactions) or 'uniform'.

    Returns:
      int64 `[count]`.
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
    # A user who has nearly everything: the rest in a random order.
    rest = np.setdiff1d(np.arange(self.dataset.num_items), np.fromiter(taken, np.int64, len(taken)))
    return np.array([*chosen, *rng.permutation(rest)[: count - len(chosen)]], np.int64)

  # --- SID tokens and what they mean

  @functools.cached_property
  def descriptions(self) -> tuple[np.ndarray, Sequences]:
    """SID tokens that have a description, int32, and the pieces of each."""
    ids, texts = [], []
    names = self.dataset.vocabulary.space.sid_names
    index = {name: self.dataset.vocabulary.space.sid_start + n for n, name in enumerate(names)}
    for entry in self.dataset.keywords:
      if entry['token'] in index and entry['description'].strip():
        ids.append(index[entry['token']])
        texts.append(self.prompter.text(entry['description']))
    return np.array(ids, np.int32), Sequences.from_lists(texts)

  def check_room(self, needed: int, field: str, got: int, what: Sequence[str] = ()) -> None:
    """Raises a ValueError where the catalogue is smaller than what a task asks for."""
    if needed > self.dataset.num_items:
      raise ValueError(
        f'{field} must leave room in the catalogue of {self.dataset.num_items} items'
        f'{" ".join(what)}; got {got}. Set --config.{field}'
      )
