"""Worked examples: test rows with their history, their target, and what the model recommended."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from recjax.data.dataset import Dataset
from recjax.report.facts import title_of
from recjax.report.numbers import shortened
from recjax.workdir import predictions

EXAMPLES = 10
K = 10  # a hit: the target is among the first K
SHOWN = 10  # the most items of a history and of a ranking
TITLE = 100  # characters of a title
RULE = (
  f'Of the test rows in a random order with a fixed seed, the first {EXAMPLES // 2} hits (the target is among the first '
  f'{K} recommendations) and the first {EXAMPLES // 2} failures; more of one kind if there are too few of the other.'
)
_KEYS = ('row', 'user', 'target')  # columns of rows.parquet that are no labels


def examples(
  workdir: epath.Path, dataset: Dataset, results: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Reads examples from the predictions of an evaluation.

  Args:
    workdir: the workdir.
    dataset: the evaluated data.
    results: content of evaluation.json.

  Returns:
    `rule` and `rows`. A row has `user`, `is_hit`, `rank` of the target (from 1; None: not in the list), `target`,
    `history` (the latest last, at most SHOWN), `earlier` (number of items before these), `recommended` (at most
    SHOWN, with `score` or None and `is_target`) and `labels` (such as inside or outside of OneHop). An item has
    `title` and `sid`. None: the workdir has no predictions.

  Raises:
    ValueError: a file is damaged, or of another evaluation than `results`.
  """
  if not predictions.path(workdir, 'test', 'retrieval').exists():
    return None
  ranking = predictions.of_evaluation(workdir, 'test', 'retrieval', results)
  lines = choose(
    [rank is not None and rank < K for rank in ranking.read('rank')['rank'].to_pylist()]
  )
  found = ranking.lines(lines)
  labels = _labels(workdir, results, [row['row'] for row in found])
  items = _Items(dataset, {id for row in found for id in (row['target'], *row['items'][:SHOWN])})
  histories, _ = dataset.histories_and_targets('test')
  return {
    'rule': RULE,
    'rows': [
      {
        'user': row['user'],
        'is_hit': row['rank'] is not None and row['rank'] < K,
        'rank': None if row['rank'] is None else row['rank'] + 1,
        'target': items.named(row['target']),
        'history': [items.at(item) for item in histories[row['row']][-SHOWN:]],
        'earlier': max(len(histories[row['row']]) - SHOWN, 0),
        'recommended': [
          items.named(id) | {'score': score, 'is_target': id == row['target']}
          for id, score in zip(row['items'][:SHOWN], (row.get('scores') or [None] * SHOWN)[:SHOWN], strict=False)
        ],
        'labels': labels[row['row']],
      }
      for row in found
    ],
  }  # fmt: skip


def choose(is_hit: Sequence[bool]) -> list[int]:
  """Returns the line numbers of EXAMPLES lines by RULE, hits first."""
  order = np.random.default_rng(0).permutation(len(is_hit))
  hits = [int(line) for line in order if is_hit[line]]
  failures = [int(line) for line in order if not is_hit[line]]
  half = EXAMPLES // 2
  num_hits = max(min(half, len(hits)), EXAMPLES - len(failures))
  return hits[:num_hits] + failures[: EXAMPLES - num_hits]


class _Items:
  """Title and semantic ID of items, by index and, for the wanted ones, by raw id."""

  def __init__(self, dataset: Dataset, wanted: set[str]):
    self._items, self._codes_IL = dataset.items, dataset.sids.codes_IL
    self._index = {item['id']: n for n, item in enumerate(self._items) if item['id'] in wanted}

  def at(self, item: int) -> dict[str, Any]:
    title = shortened(title_of(self._items[item]), TITLE)
    return {'title': title, 'sid': self._codes_IL[item].tolist()}

  def named(self, id: str) -> dict[str, Any]:
    return self.at(self._index[id])


def _labels(
  workdir: epath.Path, results: Mapping[str, Any], rows: Sequence[int]
) -> dict[int, dict[str, str]]:
  """Returns the labels of rows, by row number; empty if the evaluation wrote none."""
  if not predictions.path(workdir, 'test', predictions.ROWS).exists():
    return {row: {} for row in rows}
  table = predictions.of_evaluation(workdir, 'test', predictions.ROWS, results)
  rows_R = table.read('row')['row'].to_numpy()  # ascending
  if not np.isin(rows, rows_R).all():
    raise ValueError(
      f'{table.path} must have the rows of retrieval.parquet; it lacks some. Run --mode=evaluate again'
    )
  lines = np.searchsorted(rows_R, rows)
  return {
    row['row']: {name: value for name, value in row.items() if name not in _KEYS}
    for row in table.lines(lines)
  }
