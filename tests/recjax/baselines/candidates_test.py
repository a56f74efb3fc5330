"""Scores of given candidates, compared with counts and with the rankers of the same names."""

import collections
import itertools

import numpy as np

from recjax.baselines import transitions
from recjax.baselines.candidates import CANDIDATE_BASELINES
from recjax.baselines.split import Split
from recjax.data.sequences import Sequences


def make_split(k=10):
  rng = np.random.default_rng(0)
  train = Sequences.from_lists(
    [rng.integers(0, 12, rng.integers(2, 9)).tolist() for _ in range(30)]
  )
  histories = Sequences.from_lists(
    [rng.integers(0, 12, rng.integers(0, 6)).tolist() for _ in range(20)]
  )
  return Split(train=train, counted=train, histories=histories, num_items=12, k=k)


def test_scores_are_counts_and_decayed_counts(monkeypatch):
  monkeypatch.setattr('recjax.baselines.candidates.BLOCK_ROWS', 7)
  split, rng = make_split(), np.random.default_rng(1)
  candidates = rng.integers(0, 12, (20, 5))
  successors = collections.Counter()
  for u in range(30):
    items = split.train[u].tolist()
    successors.update(itertools.pairwise(items))
  counts = collections.Counter(split.train.values.tolist())
  popular = CANDIDATE_BASELINES['popularity'](split, candidates)
  followed = CANDIDATE_BASELINES['transitions'](split, candidates)
  for row, items in enumerate(candidates.tolist()):
    history = split.histories[row].tolist()
    assert popular[row].tolist() == [counts[item] for item in items]
    expected = [
      sum(successors[i, item] * 0.8**age for age, i in enumerate(reversed(history)))
      for item in items
    ]
    np.testing.assert_allclose(followed[row], expected)


def test_the_whole_catalogue_is_ranked_as_by_the_ranker():
  split = make_split(k=12)
  scores = CANDIDATE_BASELINES['transitions'](split, np.tile(np.arange(12), (20, 1)))
  for row, ranked in enumerate(transitions.recommend(split)):
    ranked = ranked[ranked >= 0]
    assert (np.diff(scores[row, ranked]) <= 1e-9).all()
    unranked = np.setdiff1d(np.arange(12), np.concatenate([ranked, split.histories[row]]))
    assert (scores[row, unranked] == 0).all()
