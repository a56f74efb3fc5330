"""The task next_item: history → semantic ID of the next item."""

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar

import numpy as np

from recjax.data import augmentation
from recjax.data.corpus import Corpus
from recjax.data.sequences import offsets_of
from recjax.data.tasks.answers import ItemAnswer
from recjax.data.tasks.base import Draw, Example, HistoryComponent
from recjax.schema.checks import setting

# (largest gap in seconds, words for it).
GAPS = (
  (86_399, '(the same day)'),
  (2 * 86_400, '(after a day)'),
  (7 * 86_400, '(after days)'),
  (31 * 86_400, '(after weeks)'),
  (366 * 86_400, '(after months)'),
  (np.inf, '(after years)'),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextItem(ItemAnswer, HistoryComponent):
  """History → the next item. Every position after a user's first is a target exactly once per epoch.

  For a decoder the unit is a window of at most `max_items` items of one user; every position of the window is
  learnt. A longer sequence is cut into overlapping windows, half a window apart; the items before a window's
  first target are context. For an encoder–decoder the unit is a (user, position) pair: at most
  `max_items - 1` items of history and one target. A decoder also uses pairs if items are shown by title only.

  Example: a user of the items i1, i2, i3 with SIDs (7, 2, 0), (3, 9, 0), (7, 1, 1) gives a decoder
    inputs  <bos> The customer bought: <a_7> <b_2> <c_0>
    targets <a_3> <b_9> <c_0> <a_7> <b_1> <c_1>
  and an encoder–decoder two examples; the second is
    inputs  The customer bought: <a_7> <b_2> <c_0> <a_3> <b_9> <c_0> <eos>
    targets <a_7> <b_1> <c_1>

  With `gaps`, each item is followed by the time since the previous item; with `events`, by the kind of
  interaction. Both follow the item, so that a prompt does not reveal the item to predict. Titles, gaps and
  events are read but not learnt, and so are interactions that are context (`data.context_events`).

  With `crop`, an example shows a random contiguous part of its unit, of at least two items; every length and then
  every place has the same chance. Every item of a part after its first is learnt. For an encoder–decoder, or with
  titles alone, the target stays and a random number of the oldest items is left out. Every epoch has other parts. A
  part is never longer than its unit. The search always shows the last `max_items - 1` items.

  With `learn='title'` or 'both', the target's title and a separator follow its SID (see `ItemAnswer`). A window then
  shows every item with SID and title, also with `show='sid'`, because its answers are the history of later ones. A
  window has no end tokens, because its next item would follow. The search continues with SID tokens, as in training.

  `item_dropout` leaves out items before the last, and `shuffle` permutes a short span of them; see
  `recjax.data.augmentation`. They follow the crop and are drawn in the same way. Of a window, an item that is left out
  is no target either, a shuffled one is a target at its new place, and the first item that stays is read only. Times
  stay ascending; kinds of interactions move with their items.

  Published: next item from a history of SIDs (TIGER, section 3.2, the last 20 items); items with their titles
  (MiniOneRec), learnt in whole sequences (IIRG); random crops, and shuffles of a span (CL4SRec, arXiv 2010.14395,
  section 3.2). Ours: the windows, the wordings, `gaps`, `events` and `item_dropout`.
  """

  task: str = 'next_item'
  gaps: bool = setting(False, 'Show the time since the item before.')
  events: bool = setting(False, 'Show the kind of each interaction.')
  crop: float = setting(
    0.0, 'Share of the examples that show a random part of their unit.', at_least=0, at_most=1
  )
  item_dropout: float = setting(
    0.0, 'Share of the items before the last that are left out, at random.', at_least=0, below=1
  )
  shuffle: float = setting(
    0.0,
    'Share of the examples in which a span of 2 to 4 items before the last is shuffled.',
    at_least=0,
    at_most=1,
  )

  wordings: ClassVar = (
    'The customer bought, in this order: {history}',
    'Purchases so far, oldest first: {history}',
    'Continue this history of purchases: {history}',
  )
  places: ClassVar = ('history',)

  def __post_init__(self):
    super().__post_init__()
    for prompt in self.prompts:
      self.check_field(prompt.endswith('{history}'), 'must end with {history}', 'prompts')

  @property
  def needs(self) -> frozenset[str]:
    notes = {name for name, on in (('times', self.gaps), ('events', self.events)) if on}
    return super().needs | notes

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    fields = super().identity(corpus)
    for name in ('crop', 'item_dropout', 'shuffle'):  # fields that earlier versions lacked
      if not fields[name]:
        del fields[name]
    return fields

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.positions if self._in_pairs(corpus) else corpus.windows(self.max_items))

  def _in_pairs(self, corpus: Corpus) -> bool:
    """Returns whether the unit is a pair; with titles, a window would show earlier answers as SIDs."""
    return corpus.is_encoder_decoder or self.show == 'title'

  def shown_as(self, is_encoder_decoder: bool) -> str:
    """Returns how a history shows its items: `show`, but SIDs and titles in a window with learnt titles."""
    is_window = not is_encoder_decoder and self.show != 'title'
    return 'both' if is_window and self.learn != 'sid' else self.show

  def longest_lines(self, corpus: Corpus, lines_I: np.ndarray) -> int:
    if self._in_pairs(corpus):
      return int(lines_I.max()) + len(corpus.prompter.end)
    is_changed = bool(self.crop or self.item_dropout or self.shuffle)  # context may be learnt
    windows, note = corpus.windows(self.max_items), self._longest_note(corpus)
    return windows.largest(corpus.train, lines_I, note, with_context=is_changed)

  def _part(self, corpus: Corpus, unit: int, draw: Draw) -> tuple[int, int, int]:
    """Returns the part of the flat training array that an example shows: start, items, items of context."""
    if self._in_pairs(corpus):
      first, position, _ = corpus.positions[unit]
      start = max(position - self.max_items + 1, first)
      size, context = position + 1 - start, position - start
    else:
      start, size, context = corpus.windows(self.max_items)[unit]
    if not self.crop or draw.rng.random() >= self.crop:
      return start, size, context
    shown = int(draw.rng.integers(2, size + 1))
    if self._in_pairs(corpus):
      return start + size - shown, shown, shown - 1
    return start + int(draw.rng.integers(size - shown + 1)), shown, 1

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    start, size, context = self._part(corpus, unit, draw)
    items, is_target = corpus.train.values[start : start + size], corpus.is_target(start, size)
    shown = np.arange(size)
    if self.item_dropout or self.shuffle:
      shown = augmentation.changed(draw.rng, size, self.item_dropout, self.shuffle)
      context = max(np.count_nonzero(shown < context), 1)
      items, is_target = items[shown], is_target[shown]
    notes = self._notes(corpus, start + shown)
    history, lengths = self._tokens(corpus, items[:context], notes[:context])
    inputs, at = self._inputs(corpus, self.prompt(draw), history)
    if self._in_pairs(corpus):
      return Example(inputs, *self.answer(corpus, items[context:]), at, lengths)
    is_learnt = is_target[context:]
    if self.show == self.learn == 'sid' and not notes:
      learnt = None if is_learnt.all() else np.repeat(is_learnt, corpus.sid_tokens_IL.shape[1])
      return Example(inputs, corpus.sid_tokens_IL[items[context:]].ravel(), learnt, at, lengths)
    targets, learnt = self._targets(corpus, items[context:], notes[context:], is_learnt)
    return Example(inputs, targets, learnt, at, lengths)

  def inference_prompt(
    self,
    corpus: Corpus,
    items: np.ndarray,
    times: np.ndarray | None = None,
    events: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns the search's prompt for the item after a history, in the first wording, as int32 tokens.

    Args:
      corpus: the data set.
      items: item indices, oldest first. The last `max_items - 1` are shown.
      times: times of the interactions, in seconds. None: no gaps are shown.
      events: indices of the interactions' kinds. None: no kinds are shown.
    """
    recent = slice(-(self.max_items - 1), None)
    items = np.asarray(items)[recent]
    notes = self._note_tokens(
      corpus,
      len(items),
      times[recent] if self.gaps and times is not None else None,
      events[recent] if self.events and events is not None else None,
    )
    history, _ = self._tokens(corpus, items, notes)
    return self._inputs(corpus, self.used_prompts[0], history)[0]

  def max_prompt_length(self, corpus: Corpus) -> int:
    """Returns the length of the longest inference prompt in tokens."""
    shown = corpus.shown(self.shown_as(corpus.is_encoder_decoder), self.title_tokens)
    longest = int(shown.lengths.max()) + self._longest_note(corpus)
    head, _ = self._inputs(corpus, self.used_prompts[0], np.empty(0, np.int32))
    return len(head) + (self.max_items - 1) * longest

  def _longest_note(self, corpus: Corpus) -> int:
    """The largest number of tokens of gap and event after an item."""
    texts, events = corpus.prompter.text, corpus.dataset.event_names
    longest = max(len(texts(words)) for _, words in GAPS) if self.gaps else 0
    return longest + (max(len(texts(f'({name})')) for name in events) if self.events else 0)

  def _inputs(self, corpus: Corpus, prompt: str, history: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the inputs and the index of the history in them. A decoder's answer continues the history."""
    prompter = corpus.prompter
    if corpus.is_encoder_decoder:
      inputs, starts = prompter.fill(prompt, {'history': history})
      return inputs, starts['history']
    head, _ = prompter.fill(prompt.removesuffix('{history}'), {})
    return np.concatenate([head, history]), len(head)

  def _tokens(
    self, corpus: Corpus, items: np.ndarray, notes: Sequence[np.ndarray]
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the tokens of items with their notes, and the number of tokens of each item."""
    tokens, lengths = corpus.items(
      items, self.shown_as(corpus.is_encoder_decoder), self.title_tokens
    )
    if not notes:
      return tokens, lengths
    parts = np.split(tokens, offsets_of(lengths)[1:-1]) if len(items) else []
    noted = [np.concatenate(pair) for pair in zip(parts, notes, strict=True)]
    return np.concatenate([tokens[:0], *noted]), tuple(map(len, noted))

  def _targets(
    self, corpus: Corpus, items: np.ndarray, notes: Sequence[np.ndarray], is_learnt: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns a window's targets and the mask of learnt ones. The last item has no token after its last learnt one."""
    tokens, lengths = self._tokens(corpus, items, notes)
    lines = np.array(lengths) - ([len(note) for note in notes] or 0)
    learnt = self.is_learnt(corpus, lines, lengths) & np.repeat(is_learnt, lengths)
    last = corpus.sid_tokens_IL.shape[1] if self.learn == 'sid' else lines[-1]
    size = len(tokens) - lengths[-1] + last
    return tokens[:size], learnt[:size]

  def _notes(self, corpus: Corpus, shown: np.ndarray) -> list[np.ndarray]:
    """Returns the notes of items at indices of the flat training array, which may be out of order."""
    dataset = corpus.dataset
    return self._note_tokens(
      corpus,
      len(shown),
      dataset.train_times[np.sort(shown)] / dataset.ticks_per_second if self.gaps else None,
      dataset.train_events[shown] if self.events else None,
    )

  def _note_tokens(
    self, corpus: Corpus, count: int, times: np.ndarray | None, events: np.ndarray | None
  ) -> list[np.ndarray]:
    """Returns the tokens of gap and event after each item; an empty list if neither is shown."""
    if not (self.gaps or self.events):
      return []
    text = corpus.prompter.text
    notes = [[np.empty(0, np.int32)] for _ in range(count)]
    if times is not None:
      for note, gap in zip(notes[1:], np.diff(times).tolist(), strict=True):
        note.append(text(next(words for limit, words in GAPS if gap <= limit)))
    if events is not None:
      for note, event in zip(notes, events.tolist(), strict=True):
        note.append(text(f'({corpus.dataset.event_names[event]})'))
    return [np.concatenate(note) for note in notes]
