"""Metrics of candidates, compared with scikit-learn and with all orders of the tied candidates."""

import itertools

import numpy as np
import pytest
import sklearn.metrics

from recjax.metrics.candidates import (
  Places,
  candidate_metrics,
  candidate_values,
  metric_names,
)

KS = (1, 3, 5)


def random_case(seed, rows=40, width=7):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 4, (rows, width)).astype(float)  # with many ties
  is_candidate = np.arange(width) < rng.integers(2, width + 1, rows)[:, None]
  return scores, is_candidate


def test_metrics_equal_scikit_learn_which_also_takes_the_mean_over_ties():
  scores, is_candidate = random_case(0, rows=200)
  values = candidate_values(Places.of(scores, is_candidate), KS)
  for row, (row_scores, real) in enumerate(zip(scores, is_candidate, strict=True)):
    relevant = np.zeros(int(real.sum()))
    relevant[0] = 1
    found = row_scores[real]
    for k in KS:
      expected = sklearn.metrics.ndcg_score(relevant[None], found[None], k=k)
      assert values[f'ndcg@{k}'][row] == pytest.approx(expected)
    expected = sklearn.metrics.roc_auc_score(relevant, found)
    assert values['auc'][row] == pytest.approx(expected)


def test_metrics_are_means_over_all_orders_of_the_ties():
  scores, is_candidate = random_case(1, rows=25, width=6)
  values = candidate_values(Places.of(scores, is_candidate), KS)
  for row, (row_scores, real) in enumerate(zip(scores, is_candidate, strict=True)):
    candidates = np.flatnonzero(real).tolist()
    places = []
    for order in itertools.permutations(candidates):  # a stable sort leaves ties in this order
      ranked = sorted(order, key=lambda n, s=row_scores: -s[n])
      places.append(1 + ranked.index(0))
    assert values['mrr'][row] == pytest.approx(np.mean([1 / place for place in places]))
    for k in KS:
      hits = [place <= k for place in places]
      assert values[f'hit@{k}'][row] == pytest.approx(np.mean(hits))


def test_equal_scores_give_what_a_random_order_gives():
  found = candidate_metrics(Places.of(np.zeros((3, 100)), np.ones((3, 100), bool)), (1, 10))
  assert found['auc'] == 0.5
  assert found['hit@1'] == pytest.approx(0.01)
  assert found['hit@10'] == pytest.approx(0.1)
  assert found['hit@10_stderr'] == pytest.approx(0, abs=1e-12)


def test_errors_are_standard_errors_of_the_mean():
  scores, is_candidate = random_case(2)
  places = Places.of(scores, is_candidate)
  values, metrics = candidate_values(places, KS), candidate_metrics(places, KS)
  assert set(metrics) == {n + e for n in metric_names(KS) for e in ('', '_stderr')}
  for name, rows in values.items():
    assert metrics[name] == pytest.approx(rows.mean())
    assert metrics[f'{name}_stderr'] == pytest.approx(rows.std(ddof=1) / np.sqrt(len(rows)))


def test_scores_that_are_no_numbers_are_refused():
  scores = np.array([[0.0, np.nan]])
  with pytest.raises(ValueError, match='must be a number; the model gives NaN'):
    Places.of(scores, np.ones((1, 2), bool))
  assert Places.of(scores, np.array([[True, False]])).others_U.tolist() == [0]
