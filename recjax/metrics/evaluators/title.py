"""Titles: the title that the model writes for the next item, or for the semantic ID of an item."""

from collections.abc import Mapping
import dataclasses
import time
from typing import ClassVar

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.tasks.base import Component
from recjax.data.tasks.language import HistoryToTitle, SidToTitle
from recjax.decode.answers import Answerer
from recjax.metrics import ranking
from recjax.metrics.evaluators.base import Context, Evaluator, Result
from recjax.metrics.nearest_titles import NearestTitles
from recjax.metrics.ranked import Ranked
from recjax.schema.checks import setting
from recjax.schema.run import Eval

TASKS = ('history_to_title', 'sid_to_title')
SHARES = ('exact', 'names_item', 'nearest', 'empty', 'cut')  # of the answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Title(Evaluator):
  """Lets the model write titles, and compares them with those of the catalogue.

  For a component `history_to_title` the model writes the title of the target after the history of a row. For
  `sid_to_title` it writes the title of an item after its semantic ID; the items are the targets of the rows, each once,
  at its first row. Training shows every item of the catalogue to `sid_to_title`, so that task measures what was learnt
  by heart.

  An answer is greedy, in the first wording of the component, and is cut at the tokens at which the component cuts
  titles. The title of an item is what the component teaches: its tokens, cut there, as the tokenizer decodes them, with
  single spaces; for an item without a title another text. Several items may have one title: an answer that equals it
  names each of them, and titles are ranked, not items. So a target counts as found if its title is found.

  - `exact`: share of answers that equal the title of the target; `names_item`: that of any item.
  - `nearest`: share of answers whose nearest title is that of the target; recall, ndcg and mrr at `eval.ks` rank the
    target's title among the nearest ones. See `recjax.metrics.nearest_titles` for the distance; of equally near titles
    the one of the lowest item is nearer. Titles that share no trigram with the answer are not ranked.
  - `empty`: share of answers without a character; `cut`: share of answers that do not end before the limit.

  Rows are left out whose target has no text and, after a history, those whose history is empty.
  """

  evaluator: str = 'title'
  component: str | None = setting(
    None,
    'Name of the component in the mixture. None: the history_to_title component with the largest weight, or '
    'without one the sid_to_title component.',
  )
  constrained: bool = setting(False, 'Whether an answer must be a title of the catalogue.')

  lower_is_better: ClassVar[frozenset[str]] = frozenset({'empty', 'cut'})
  item_columns: ClassVar[tuple[str, ...]] = ('items', 'named')

  def check(self, components: Mapping[str, Component]) -> None:
    self.check_component(components, TASKS, self.component)

  def check_corpus(self, corpus: Corpus) -> None:
    dataset = corpus.dataset
    for split in SPLITS:
      if not dataset.titles.lengths[dataset.targets(split)].any():
        raise ValueError(
          f'{self.prefix.removesuffix(".")} needs rows whose target has a title in the {split} split; there is none. '
          'Set --config.data.title_column, or leave the evaluator out'
        )

  def measured_rows(self, context: Context, split: str) -> np.ndarray:
    dataset = context.dataset
    return np.flatnonzero(dataset.titles.lengths[dataset.targets(split)])

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    return (*SHARES, *(f'{name}@{k}' for k in settings.ks for name in ranking.METRICS))

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    component = context.component(*TASKS, name=self.component)
    limit = limit_of(component)
    titles = context.once(('titles', limit), lambda: Titles(context.dataset, limit))
    targets = np.asarray(context.dataset.targets(split))
    kept, counts = self._kept(context, component, titles, split, rows)
    if not len(kept):
      return Result(counts, kept)
    start = time.monotonic()
    answers, is_ended_R = self._answers(context, component, titles, split, kept)
    named_R, found_RK, cosines_RK = titles.find(answers, max(context.settings.ks))
    seconds = time.monotonic() - start

    own_R = titles.of_items[targets[kept]]
    ks = context.settings.ks
    ranks_R = Ranked.of(found_RK, cosines_RK, own_R, max(ks), seconds).ranks_U
    # The target stands for its title, another title for the first of its items.
    items_RK = np.where(found_RK < 0, -1, titles.first_item[np.maximum(found_RK, 0)])
    items_RK = np.where(found_RK == own_R[:, None], targets[kept][:, None], items_RK)
    shares = {
      'exact': named_R == own_R,
      'names_item': named_R >= 0,
      'nearest': ranks_R == 0,
      'empty': np.array([not answer for answer in answers]),
      'cut': ~is_ended_R,
    }
    metrics = {}
    for name in SHARES:
      metrics |= ranking.mean_and_error(name, shares[name].astype(np.float64))
    metrics |= ranking.ranking_metrics(ranks_R, ks) | counts
    named_items_R = np.where(named_R < 0, -1, titles.first_item[np.maximum(named_R, 0)])
    named_items_R = np.where(shares['exact'], targets[kept], named_items_R)
    predictions = {
      'answer': np.array(answers, object),
      'title': np.array([titles.texts[n] for n in own_R], object),
      'named': named_items_R.astype(np.int32),
      'is_cut': ~is_ended_R,
    }
    ranked = Ranked(items_RK.astype(np.int32), cosines_RK, ranks_R, seconds)
    return Result(metrics, kept, predictions, ranked)

  def _kept(
    self, context: Context, component: Component, titles: 'Titles', split: str, rows: np.ndarray
  ) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the rows that are asked, and the counts of rows and items."""
    targets_R = np.asarray(context.dataset.targets(split))[rows]
    is_asked_R = titles.of_items[targets_R] >= 0
    counts = {
      'rows_without_title': int((~is_asked_R).sum()),
      'items_without_title': int((titles.of_items < 0).sum()),
      'items_sharing_a_title': titles.sharing_items,
    }
    if isinstance(component, HistoryToTitle):
      lengths = context.dataset.histories_and_targets(split)[0].lengths
      counts['rows_without_history'] = int((is_asked_R & (lengths[rows] == 0)).sum())
      is_asked_R &= lengths[rows] > 0
    else:
      _, first = np.unique(targets_R, return_index=True)
      is_first_R = np.zeros(len(rows), bool)
      is_first_R[first] = True
      counts['rows_of_repeated_items'] = int((is_asked_R & ~is_first_R).sum())
      is_asked_R &= is_first_R
    return rows[is_asked_R], {'rows': int(is_asked_R.sum())} | counts

  def _answers(
    self, context: Context, component: Component, titles: 'Titles', split: str, rows: np.ndarray
  ) -> tuple[list[str], np.ndarray]:
    """Returns the answers to the rows as normalised texts, and which of them ended, bool."""
    dataset, corpus, limit = context.dataset, context.corpus, limit_of(component)
    if isinstance(component, HistoryToTitle):
      histories, _ = context.histories(split, rows, ())
      prompts = [component.inference_prompt(corpus, items) for items in histories]
    else:
      items = np.asarray(dataset.targets(split))[rows]
      prompts = [component.inference_prompt(corpus, item) for item in items]

    def make() -> Answerer:
      return Answerer(
        context.model,
        dataset.vocabulary.space,
        context.mesh,
        batch_size=context.settings.batch_size,
        limit=limit,
        end=corpus.prompter.form.end,
        texts=corpus.titles(limit).take(titles.first_item) if self.constrained else None,
        timeout=context.limits.phase_timeout,
      )

    answerer = context.once(('title', limit, self.constrained), make)
    answers = answerer.answer(context.params, prompts, f'write titles, {split}')
    texts = [normalised(dataset, answers.tokens[row]) for row in range(len(rows))]
    return texts, answers.is_ended_U


class Titles:
  """The distinct titles of a catalogue, in the order of their first items.

  Attributes:
    texts: the titles.
    of_items: int64 `[I]`, the title of each item; -1: it has no text.
    first_item: int64, the first item of each title.
    sharing_items: number of items that share their title with another.
  """

  def __init__(self, dataset: Dataset, limit: int):
    """Decodes the titles, each cut at `limit` tokens."""
    titles = dataset.titles.cut(limit)
    self._index: dict[str, int] = {}
    texts = [normalised(dataset, titles[item]) for item in range(len(titles))]
    self.of_items = np.array(
      [self._index.setdefault(text, len(self._index)) if text else -1 for text in texts]
    )
    self.texts = list(self._index)
    is_titled = self.of_items >= 0
    _, first = np.unique(self.of_items[is_titled], return_index=True)
    self.first_item = np.flatnonzero(is_titled)[first]
    sizes = np.bincount(self.of_items[is_titled])
    self.sharing_items = int(sizes[sizes > 1].sum())
    self._nearest = NearestTitles(self.texts)

  def find(self, answers: list[str], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the title that each answer equals `[R]`, -1: none; and its nearest titles with their cosines `[R, K]`.

    A title that the answer equals comes before all others.
    """
    distinct, places = np.unique(np.array(answers, object).astype(str), return_inverse=True)
    found_NK, cosines_NK = self._nearest.find(distinct.tolist(), k)
    named_N = np.array([self._index.get(text, -1) for text in distinct.tolist()])
    for found_K, named in zip(found_NK, named_N, strict=True):
      if named >= 0 and found_K[0] != named:  # words in another order have the same trigrams
        others = found_K[found_K != named]
        found_K[:] = np.concatenate([[named], others])[: len(found_K)]
    return named_N[places], found_NK[places], cosines_NK[places]


def normalised(dataset: Dataset, tokens: np.ndarray) -> str:
  """Returns the text of tokens with single spaces."""
  return ' '.join(dataset.vocabulary.decode(tokens.tolist()).split())


def limit_of(component: HistoryToTitle | SidToTitle) -> int:
  """Returns the number of tokens at which a component cuts the titles that it teaches."""
  return (
    component.answer_tokens if isinstance(component, HistoryToTitle) else component.title_tokens
  )
