"""Chooses the weights of the scores on validation rows: those with the highest ndcg@10 of a small grid.

Grid and metric are ours. No target of a test row is read: `choose` gets the candidates and the targets of the rows that
it may use, and `recjax.metrics.evaluators.retrieval` gives it validation rows alone.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any

import numpy as np

from recjax.decode.blend import Weights, scores
from recjax.decode.candidates import Candidates
from recjax.metrics import ranking
from recjax.metrics.evaluators.base import Result
from recjax.schema.blend import Blend

METRIC, CUTOFF = 'ndcg', 10
HEADS = (0.0, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0)
MEMORIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0)
TEXTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
# Names of chosen weights among the metrics.
NAMES = {'head': 'blend_head', 'memory': 'blend_memory', 'text': 'blend_text'}


def fixed(settings: Blend, candidates: Candidates) -> Weights | None:
  """Returns the weights where nothing is to be chosen: all are given, or there is one score. None: see `choose`."""
  grid = list(_grid(settings, candidates))
  return grid[0] if len(grid) == 1 else None


def as_metrics(weights: Weights) -> dict[str, float]:
  """Returns weights that an evaluation during training has chosen, for its metrics and so for its checkpoint."""
  return {NAMES[name]: value for name, value in weights._asdict().items()}


def of_metrics(metrics: Mapping[str, float]) -> Weights | None:
  """Inverts `as_metrics`. None: nothing was chosen."""
  if not metrics.keys() >= {NAMES['head'], NAMES['memory']}:
    return None
  # Evaluations of earlier versions have no weight of texts.
  return Weights(**{name: metrics.get(key, 0.0) for name, key in NAMES.items()})


def record(validation: Result, settings: Blend) -> dict[str, Any]:
  """Returns the entry `blend` of evaluation.json; none if the candidates have one score.

  Args:
    validation: what retrieval found on validation rows.
    settings: the section `eval.blend`.
  """
  if not validation.rankers:
    return {}
  return {
    'blend': validation.weights._asdict()
    | {
      'given': [name for name, value in dataclasses.asdict(settings).items() if value is not None],
      'chosen_by': f'{METRIC}@{CUTOFF} of {len(validation.rows):,} validation rows',
    }
  }


def line(blend: Mapping[str, Any]) -> str:
  """Returns the entry `blend` of evaluation.json as a sentence."""
  codes = 1 - blend['head']
  shown = {'head', 'memory'} | {name for name in NAMES if blend.get(name)}
  terms = [f'{codes:g} · codes', *(f'{blend[name]:g} · {name}' for name in NAMES if name in shown)]
  given = ' and '.join(blend['given'])
  return (
    f'score = {" + ".join(terms)}; weights chosen by {blend["chosen_by"]}'
    f'{f", but {given} given by eval.blend" if given else ""}'
  )


def choose(candidates: Candidates, targets_U: np.ndarray, settings: Blend) -> Weights:
  """Returns the weights with the highest ndcg@10; of equal ones the first, with the least of head, memory and text.

  Args:
    candidates: of validation rows, numpy arrays.
    targets_U: their targets, item indices.
    settings: weights that are given are not chosen.
  """
  hits_UM = candidates.items_BM == np.asarray(targets_U)[:, None]
  rows = np.flatnonzero(hits_UM.any(axis=1))  # no weights can help the others
  found = Candidates(*(None if each is None else each[rows] for each in candidates))
  places, best, highest = hits_UM[rows].argmax(axis=1), None, -1.0
  for weights in _grid(settings, found):
    values_R = ranking.METRICS[METRIC](_ranks(scores(found, weights), places), CUTOFF)
    if values_R.sum() > highest:
      best, highest = weights, values_R.sum()
  return best


def _grid(settings: Blend, candidates: Candidates) -> Iterator[Weights]:
  axes = [
    (settings.head, candidates.head_BM, HEADS),
    (settings.memory, candidates.memory_BM, MEMORIES),
    (settings.text, candidates.text_BM, TEXTS),
  ]
  values = [
    (0.0,) if scores_UM is None else grid if given is None else (given,)
    for given, scores_UM, grid in axes
  ]
  return itertools.starmap(Weights, itertools.product(*values))


def _ranks(scores_UM: np.ndarray, places_U: np.ndarray) -> np.ndarray:
  """Returns the rank of the candidate at a place of every row in the order of `ranked`, int64 `[U]`."""
  own_U1 = np.take_along_axis(scores_UM, places_U[:, None], axis=1)
  is_before_UM = np.arange(scores_UM.shape[1]) < places_U[:, None]
  return ((scores_UM > own_U1) | ((scores_UM == own_U1) & is_before_UM)).sum(axis=1)
