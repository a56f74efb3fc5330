"""The synthetic source compared with its documented distribution and a brute-force optimum."""

import numpy as np
import pytest
import scipy.stats

from data_prep.encoders import tfidf
from data_prep.log import interactions, item_text
from data_prep.sources import synthetic
from recjax.baselines import popularity, transitions
from recjax.baselines.split import Split
from recjax.data.sequences import Sequences
from recjax.metrics import ranking
from recjax.sids.quantizers import residual_kmeans


def _world(**fields) -> synthetic.Synthetic:
  return synthetic.Synthetic(source='synthetic', name='world', item_text='synthetic', **fields)


SMALL = _world(synthetic_items=160, synthetic_users=12_000, k_core=0)
DEFAULT = _world()


def _law(history: list[int], following: list[int]) -> list[float]:
  """Returns p(next | history) of a small world, as the module's docstring defines it."""

  def parts(i):
    return i // 40, i // 5 % 8  # theme, style

  last, items = history[-1], 40 * len(following)
  theme, style = parts(last)
  direct = [i for i in range(items) if parts(i) == (following[theme], style)]
  two_hop = [i for i in range(items) if parts(i) == (following[following[theme]], style)]
  same = [i for i in range(items) if parts(i)[0] == theme and i != last]
  p = [0.15 / items] * items
  for share, members in ((0.25, direct), (0.30, two_hop), (0.30, same)):
    for i in members:
      p[i] += share / len(members)
  p = [0.0 if i in history else value for i, value in enumerate(p)]
  return [value / sum(p) for value in p]


def _split(data: synthetic.Synthetic) -> tuple[Sequences, Sequences, np.ndarray]:
  world = synthetic.sequences(data)
  rows = [world[u] for u in range(len(world))]
  train = Sequences.from_lists([row[:-2] for row in rows])
  histories = Sequences.from_lists([row[:-1] for row in rows])
  return train, histories, np.array([row[-1] for row in rows])


def test_following_themes_are_one_cycle():
  following = synthetic.following_themes(50, seed=3)
  theme, seen = 0, []
  for _ in range(50):
    seen.append(theme)
    theme = following[theme]
  assert theme == 0
  assert sorted(seen) == list(range(50))


def test_probabilities_equal_the_documented_distribution():
  following = synthetic.following_themes(4, 0).tolist()
  histories = [[3], [159, 40, 41, 7], list(range(20, 60)), [5, 5, 90]]
  probabilities = synthetic.next_item_probabilities(SMALL, Sequences.from_lists(histories))
  expected = [_law(history, following) for history in histories]
  np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


def test_observed_frequencies_match_the_distribution():
  world = synthetic.sequences(SMALL)
  rows = [world[u] for u in range(len(world))]
  # Position of the next item relative to the last: steps along the cycle × same style or not.
  following = synthetic.following_themes(4, 0)
  steps = np.zeros((4, 4), int)
  for theme in range(4):
    at = theme
    for step in range(4):
      steps[theme, at], at = step, following[at]
  for length in (1, 4):  # after a history of one item, and of four
    histories = Sequences.from_lists([row[:length] for row in rows])
    last = np.array([row[length - 1] for row in rows])
    following_item = np.array([row[length] for row in rows])
    items = np.arange(160)[None, :]
    same_style = items // 5 % 8 == last[:, None] // 5 % 8
    cells = steps[last[:, None] // 40, items // 40] * 2 + same_style
    probabilities = synthetic.next_item_probabilities(SMALL, histories)
    expected = np.bincount(cells.ravel(), probabilities.ravel(), 8)
    observed = np.bincount(np.take_along_axis(cells, following_item[:, None], 1)[:, 0], minlength=8)
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
  # Without the exclusion of seen items, these are the four shares.
  rng = np.random.default_rng(0)
  drawn = synthetic._propose(rng, np.full(200_000, 87), following)
  by_law = synthetic.DIRECT * np.isin(np.arange(160), _variants(87, following, 1)) / 5
  by_law += synthetic.TWO_HOP * np.isin(np.arange(160), _variants(87, following, 2)) / 5
  by_law += synthetic.SAME_THEME * ((np.arange(160) // 40 == 2) & (np.arange(160) != 87)) / 39
  by_law += synthetic.NOISE / 160
  assert scipy.stats.chisquare(np.bincount(drawn, minlength=160), by_law * 200_000).pvalue > 1e-3


def _variants(item: int, following: np.ndarray, hops: int) -> list[int]:
  theme = item // 40
  for _ in range(hops):
    theme = following[theme]
  return [theme * 40 + item // 5 % 8 * 5 + variant for variant in range(5)]


def test_optimum_equals_brute_force(monkeypatch):
  following = synthetic.following_themes(4, 0).tolist()
  rng = np.random.default_rng(1)
  histories = [rng.permutation(160)[: rng.integers(1, 30)].tolist() for _ in range(25)]
  expected = {}
  for k in (1, 5, 10):
    best = [sorted(_law(history, following), reverse=True)[:k] for history in histories]
    expected[f'recall@{k}'] = np.mean([sum(p) for p in best])
    expected[f'ndcg@{k}'] = np.mean(
      [sum(value / np.log2(r + 2) for r, value in enumerate(p)) for p in best]
    )
    expected[f'mrr@{k}'] = np.mean(
      [sum(value / (r + 1) for r, value in enumerate(p)) for p in best]
    )
  monkeypatch.setattr(synthetic, 'BLOCK_CELLS', 1000)  # several blocks
  optimum = synthetic.optimum(SMALL, Sequences.from_lists(histories), (1, 5, 10))
  assert optimum == pytest.approx(expected)
  with pytest.raises(ValueError, match='at least one item'):
    synthetic.optimum(SMALL, Sequences.from_lists([[1], []]), (1,))


def test_ranking_by_true_probabilities_reaches_the_optimum_and_counting_does_not():
  train, histories, targets = _split(DEFAULT)
  optimum = synthetic.optimum(DEFAULT, histories, (5, 10))
  p_UI = synthetic.next_item_probabilities(DEFAULT, histories)
  metrics = ranking.ranking_metrics(
    ranking.target_ranks(np.argsort(-p_UI, axis=1, kind='stable')[:, :10], targets), (5, 10)
  )
  for name, best in optimum.items():
    assert abs(metrics[name] - best) < 4 * metrics[f'{name}_stderr'], name

  def share(ranked_UK):
    ranks = ranking.target_ranks(ranked_UK, targets)
    return ranking.ranking_metrics(ranks, (10,))['recall@10'] / optimum['recall@10']

  split = Split(train, histories, histories, num_items=2000, k=10)
  counting = transitions.recommend(split)
  last_item = transitions.recommend(split, decay=1e-6)
  assert 0.3 < share(counting) < 0.6
  assert share(last_item) < 0.6
  assert share(popularity.recommend(split)) < 0.05


def test_equal_seeds_give_equal_worlds():
  first, again = synthetic.sequences(DEFAULT), synthetic.sequences(DEFAULT)
  np.testing.assert_array_equal(first.values, again.values)
  np.testing.assert_array_equal(first.offsets, again.offsets)
  other = synthetic.sequences(_world(synthetic_seed=1))
  assert first.values[:1000].tolist() != other.values[:1000].tolist()


def test_item_indices_of_the_clean_log_are_those_of_the_world():
  world = synthetic.sequences(DEFAULT)
  raw = DEFAULT.load(None)
  log = interactions.clean(raw, DEFAULT.k_core)
  assert (len(log.user_ids), len(log.item_ids)) == (10_000, 2_000)
  np.testing.assert_array_equal(log.items, world.values)
  np.testing.assert_array_equal(log.offsets, world.offsets)
  assert min(world.lengths) == synthetic.MIN_LENGTH
  assert all(len(set(world[u].tolist())) == len(world[u]) for u in range(0, len(world), 50))
  first_items = world.values[world.offsets[:-1]]
  assert np.bincount(first_items, minlength=2000).min() >= 5  # every item occurs in training


def test_titles_are_unique_and_identify_theme_and_style():
  big = [synthetic.item_record(i) for i in range(40 * 120)]
  assert len({record['title'] for record in big}) == len(big)
  rows = [item_text.item_row(str(i), synthetic.item_record(i)) for i in range(2000)]
  vectors_ID = tfidf.encode([row['text'] for row in rows], 128, seed=0)
  codes_IL = residual_kmeans.fit(vectors_ID, codes=(64, 64), seed=0).assign(vectors_ID)
  themes = np.arange(2000) // 40
  styles = themes * 8 + np.arange(2000) // 5 % 8
  for level, labels in ((1, themes), (2, styles)):
    clusters = np.unique(codes_IL[:, :level], axis=0, return_inverse=True)[1].ravel()
    table = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(table, (clusters, labels), 1)
    assert table.max(1).sum() / 2000 > 0.95, f'purity of level {level}'


@pytest.mark.parametrize(
  ('fields', 'field'),
  [
    ({'synthetic_items': 2001}, 'synthetic_items'),
    ({'synthetic_items': 80}, 'synthetic_items'),
    ({'synthetic_users': 1999}, 'synthetic_users'),
    ({'k_core': 6}, 'k_core'),
  ],
)
def test_invalid_sizes_are_rejected(fields, field):
  with pytest.raises(ValueError, match=rf'--config\.data\.{field}'):
    _world(**fields).load(None)


def test_reviews_add_ratings_and_descriptions_and_change_nothing_else():
  plain, rated = (_world(synthetic_items=120, synthetic_users=4000, k_core=0, **fields)
                  for fields in ({}, {'synthetic_reviews': True}))  # fmt: skip
  before, log = plain.load(None), rated.load(None)
  for name in ('users', 'items', 'times'):
    np.testing.assert_array_equal(getattr(before, name), getattr(log, name))
  assert before.ratings is None
  assert set(np.unique(log.ratings)) == {1, 2, 3, 4, 5}
  assert 'synthetic_reviews' not in plain.params()
  assert abs(log.ratings.mean() - 3) < 0.25  # three standard errors of 120 qualities
  items, index = np.unique(log.items, return_inverse=True)
  by_item = np.bincount(index, log.ratings) / np.bincount(index)
  # An item has about 230 ratings: its mean is within .2 of a quality, 2.08, 3 or 3.92 after the cuts.
  assert len(items) == 120
  assert np.abs(by_item[:, None] - [2.08, 3, 3.92]).min(axis=1).max() < 0.25
  records = {True: log.item_records, False: before.item_records}
  for is_rated, found in records.items():
    assert all(('description' in record) == is_rated for record in found.values())
  first = log.item_records['item000']
  assert all(word in first['description'].lower() for word in ('rustic', 'copper', 'kettle'))
