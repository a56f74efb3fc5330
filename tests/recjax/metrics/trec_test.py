"""Ranking metrics against trec_eval, through pytrec-eval-terrier, on 1,000 random cases with ties and short lists."""

import numpy as np
import pytest
import pytrec_eval
import scipy.sparse

from recjax.baselines import sums
from recjax.metrics import ranking
from tests.recjax.baselines import logs

CASES, ITEMS, KS = 1000, 30, (1, 3, 5, 10, 20)


def cases() -> tuple[list[dict[int, float]], np.ndarray]:
  """Returns the scores of every case, 0 to 25 items with few distinct values, and the targets."""
  rng = np.random.default_rng(0)
  scores = []
  for _ in range(CASES):
    items = rng.permutation(ITEMS)[: rng.integers(0, 26)]
    scores.append(dict(zip(items.tolist(), rng.integers(1, 6, len(items)).tolist(), strict=True)))
  return scores, rng.integers(0, ITEMS, CASES)


def document(item: int) -> str:
  # trec_eval puts the later name first in a tie. These names give its ties our order: the lower item first.
  return f'{ITEMS - item:03d}'


def trec(
  runs: list[dict[int, float]], targets: np.ndarray, measures: set[str]
) -> list[dict[str, float]]:
  """Returns the values of every case; a list without items has none, and counts as 0."""
  judged = {str(n): {document(target): 1} for n, target in enumerate(targets.tolist())}
  evaluator = pytrec_eval.RelevanceEvaluator(judged, measures)
  found = evaluator.evaluate(
    {str(n): {document(i): float(s) for i, s in run.items()} for n, run in enumerate(runs)}
  )
  return [found.get(str(n), {}) for n in range(len(runs))]


def test_metrics_equal_trec_eval():
  scores, targets = cases()
  lists = [sorted(run, key=lambda item, run=run: (-run[item], item)) for run in scores]
  assert any(len(set(run.values())) < len(run) for run in scores)
  assert 0 in map(len, lists) and min(map(len, filter(None, lists))) < 3
  ranked_UK = np.array([logs.padded(row, max(KS)) for row in (row[: max(KS)] for row in lists)])
  ranks_U = ranking.target_ranks(ranked_UK, targets)
  assert 0.2 < (ranks_U == max(KS)).mean() < 0.8  # absent targets
  cuts = ','.join(map(str, KS))
  found = trec(scores, targets, {f'recall.{cuts}', f'ndcg_cut.{cuts}'})
  for k in KS:
    cut = [{i: run[i] for i in row[:k]} for run, row in zip(scores, lists, strict=True)]
    expected = {
      'recall': [row.get(f'recall_{k}', 0.0) for row in found],
      'ndcg': [row.get(f'ndcg_cut_{k}', 0.0) for row in found],
      'mrr': [row.get('recip_rank', 0.0) for row in trec(cut, targets, {'recip_rank'})],
    }
    means = ranking.ranking_metrics(ranks_U, (k,))
    for name, values in expected.items():
      np.testing.assert_allclose(ranking.METRICS[name](ranks_U, k), values, rtol=1e-12)
      assert means[f'{name}@{k}'] == pytest.approx(np.mean(values), rel=1e-12)


def test_ties_of_baselines_have_the_stated_order():
  """Items of equal popularity and equal sums come by index, which the names of `document` tell trec_eval."""
  scores, targets = cases()
  table = np.zeros((CASES, ITEMS))
  for row, run in enumerate(scores):
    table[row, list(run)] = list(run.values())
  # The history of case n is the item n, whose row of scores is that of the case.
  square = np.zeros((CASES, CASES))
  square[:, :ITEMS] = table
  split = logs.split_of([], [[n] for n in range(CASES)], num_items=CASES, k=10, exclude_seen=False)
  ranked_UK = sums.recommend(split, scipy.sparse.csr_matrix(square), decay=1.0)
  ranks_U = ranking.target_ranks(ranked_UK, targets)
  found = trec(scores, targets, {'recall.10', 'ndcg_cut.10'})
  for name, measure in (('recall', 'recall_10'), ('ndcg', 'ndcg_cut_10')):
    expected = [row.get(measure, 0.0) for row in found]
    np.testing.assert_allclose(ranking.METRICS[name](ranks_U, 10), expected, rtol=1e-12)
