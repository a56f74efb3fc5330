"""Masked items: the item that a mask hides in a history, by the constrained search after the prompt of mim."""

from collections.abc import Mapping
import dataclasses
import time

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.tasks.base import Component
from recjax.data.tasks.masked import MASKED, Mim
from recjax.decode.ranker import Ranker
from recjax.metrics import ranking
from recjax.metrics.evaluators.base import Context, Evaluator, Result
from recjax.metrics.ranked import Ranked
from recjax.schema.checks import setting
from recjax.schema.run import Eval

TASKS = ('mim',)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Evaluator):
  """Finds the item that a mask hides: recall, ndcg and mrr at the cut-offs `eval.ks`.

  The prompt is that of the component, in its first wording, with one masked item; its answer is the first item that
  the model gives. Items of the history are not excluded, since the masked item is one of a history.

  With `position='end'` the mask follows the history of the row and hides its target. No training example holds that
  interaction, so the metric measures what the model infers. With `position='random'` the mask hides an item of the
  history, and the target of the row is not shown. Most of these interactions are those of training, so the metric
  measures what the model has kept of its training data; it is no measure of recommendation. The position is a function
  of the seed of the run, the split and the row, among the last `max_items` interactions that may be targets.

  Rows are left out whose history is empty; with `position='random'` those with fewer than two items, or with none that
  may be a target.
  """

  evaluator: str = 'masked'
  component: str | None = setting(
    None, 'Name of the component in the mixture. None: the mim component with the largest weight.'
  )
  position: str = setting(
    'end',
    'What is masked: the target, after the history; or an item of it.',
    one_of=('end', 'random'),
  )

  task = TASKS[0]
  item_columns = ('items', 'masked')

  def check(self, components: Mapping[str, Component]) -> None:
    self.check_component(components, TASKS, self.component)

  def check_corpus(self, corpus: Corpus) -> None:
    for split in SPLITS:
      longest = corpus.dataset.histories_and_targets(split)[0].lengths.max(initial=0)
      if longest < self._least:
        raise ValueError(
          f'{self.prefix.removesuffix(".")} needs rows with a history of {self._least} items in the {split} split; the '
          f'longest has {longest}. Set another --config.data.split, or leave the evaluator out'
        )

  def measured_rows(self, context: Context, split: str) -> np.ndarray:
    lengths = context.dataset.histories_and_targets(split)[0].lengths
    return np.flatnonzero(lengths >= self._least)

  @property
  def _least(self) -> int:
    """Items of the history of a row that is measured."""
    return 1 if self.position == 'end' else 2

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    return tuple(f'{name}@{k}' for k in settings.ks for name in ranking.METRICS)

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    ks = context.settings.ks
    component = context.component(*TASKS, name=self.component)
    places = self._places(context, component, split, rows)
    kept = [row for row in rows.tolist() if row in places]
    counts = {'rows': len(kept), 'rows_without_history': len(rows) - len(kept)}
    if not kept:
      return Result(counts, rows[:0])
    histories, _ = context.histories(split, np.array(kept), ())
    targets = np.asarray(context.dataset.targets(split))[kept]
    shown, masked = [], []
    for row, items, target in zip(kept, histories, targets.tolist(), strict=True):
      place = places[row]
      masked.append(target if place == len(items) else items[place])
      shown.append(np.concatenate([items[:place], [MASKED], items[place + 1 :]]))
    masked_R = np.array(masked, np.int32)

    start = time.monotonic()
    items_RM, scores_RM = self._ranker(context, component).rank(
      context.params, shown, f'find masked items, {split}'
    )
    ranked = Ranked.of(items_RM, scores_RM, masked_R, max(ks), time.monotonic() - start)
    if self.position == 'random' and context.dataset.is_leave_one_out:
      lengths = context.dataset.train.lengths[kept]
      counts['masked_in_training'] = int(
        sum(places[r] < n for r, n in zip(kept, lengths, strict=True))
      )
    metrics = ranking.ranking_metrics(ranked.ranks_U, ks) | counts
    predictions = {'masked': masked_R, 'place': np.array([places[row] for row in kept])}
    return Result(metrics, np.array(kept), predictions, ranked)

  def _places(
    self, context: Context, component: Mim, split: str, rows: np.ndarray
  ) -> dict[int, int]:
    """Returns the index of the masked item in the history by row; its length: after the last. Other rows are absent."""
    histories, _ = context.histories(split, rows, ())
    lengths = {row: len(items) for row, items in zip(rows.tolist(), histories, strict=True)}
    if self.position == 'end':
      return {row: length for row, length in lengths.items() if length}
    places = {}
    seed = (context.seed, SPLITS.index(split))
    may_be_target = _may_be_target(context.dataset, split)
    offsets = context.dataset.histories_and_targets(split)[0].offsets
    for row, length in lengths.items():
      first = max(length - component.max_items, 0)
      choices = np.arange(first, length)
      if may_be_target is not None:
        choices = choices[may_be_target[offsets[row] + choices]]
      if length >= 2 and len(choices):
        places[row] = int(np.random.default_rng((*seed, row)).choice(choices))
    return places

  def _ranker(self, context: Context, component: Mim) -> Ranker:
    def make() -> Ranker:
      settings = dataclasses.replace(context.settings, exclude_seen=False)
      return Ranker(
        *(component, context.model, settings, context.limits, context.dataset, context.mesh)
      )

    return context.once(('masked', component), make)


def _may_be_target(dataset: Dataset, split: str) -> np.ndarray | None:
  """Returns which items of the histories of a split may be targets, bool, flat. None: all."""
  if dataset.target_events is None:
    return None
  return dataset.target_events[dataset.history_column(split, 'events')]
