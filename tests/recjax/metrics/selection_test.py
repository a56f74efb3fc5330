"""The metric that chooses the best checkpoint."""

import math

from recjax.metrics import selection
from recjax.metrics.selection import Selection


def test_scores_are_higher_for_better_checkpoints():
  higher = Selection('retrieval', 'ndcg@10')
  assert (higher.key, higher.score({'ndcg@10': 0.25, 'rows': 3})) == ('ndcg@10', 0.25)
  lower = Selection('rating', 'rmse', lower_is_better=True)
  assert lower.key == selection.key('rating.rmse') == 'rating/rmse'
  assert lower.score({'rating/rmse': 1.5}) < lower.score({'rating/rmse': 0.5})
  assert lower.score({'rating/rmse': math.nan}) is lower.score({'rating/rmse': None}) is None
  assert lower.score({}) is None


def test_metrics_of_other_evaluators_have_their_name():
  assert selection.named('retrieval', {'mrr@5': 1.0}) == {'mrr@5': 1.0}
  assert selection.named('hard', {'mrr@5': 1.0}) == {'hard/mrr@5': 1.0}
  assert selection.key(selection.DEFAULT) == 'ndcg@10'
