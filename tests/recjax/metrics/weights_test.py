"""The choice of weights: the best of the grid by brute force, and what is left to choose."""

import itertools

import numpy as np
import pytest

from recjax.decode import blend
from recjax.decode.blend import Weights
from recjax.decode.candidates import Candidates
from recjax.metrics import ranking, weights
from recjax.metrics.evaluators.base import Result
from recjax.schema.blend import Blend


def drawn(seed, rows=40, width=25, items=60):
  """Candidates whose scores all tell something about the targets; every fifth target is no candidate."""
  rng = np.random.default_rng(seed)
  found = np.stack([rng.permutation(items)[:width] for _ in range(rows)]).astype(np.int32)
  targets = found[np.arange(rows), rng.integers(0, width, rows)]
  targets[::5] = items
  is_target = found == targets[:, None]
  codes, head, memory, text = (
    (rng.normal(size=found.shape) + gain * is_target).astype(np.float32)
    for gain in (0.4, 1, 0.7, 0.3)
  )
  found[1::4, -3:], pad = -1, np.float32(-np.inf)
  scores = [np.where(found < 0, pad, each) for each in (codes, head, memory, text)]
  return Candidates(found, *scores), targets


def ndcg(candidates, targets, by):
  items, _ = blend.ranked(candidates, by, candidates.items_BM.shape[1])
  return ranking.ndcg(ranking.target_ranks(items, targets), 10).mean()


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('settings', [Blend(text=0), Blend(head=0.4), Blend(head=1, memory=0.6)])
def test_the_chosen_weights_are_the_best_of_the_grid(seed, settings):
  candidates, targets = drawn(seed)
  heads = weights.HEADS if settings.head is None else (settings.head,)
  memories = weights.MEMORIES if settings.memory is None else (settings.memory,)
  texts = weights.TEXTS if settings.text is None else (settings.text,)
  grid = [Weights(*each) for each in itertools.product(heads, memories, texts)]
  values = [ndcg(candidates, targets, by) for by in grid]
  chosen = weights.choose(candidates, targets, settings)
  assert ndcg(candidates, targets, chosen) == pytest.approx(max(values))
  assert chosen == grid[int(np.argmax(np.round(values, 9)))]


def test_equal_weights_give_the_least_and_nothing_is_chosen_for_one_score():
  candidates, targets = drawn(0)
  absent = np.full_like(targets, 1000)
  assert weights.choose(candidates, absent, Blend()) == Weights(0, 0)
  alone = Candidates(candidates.items_BM, candidates.codes_BM)
  assert weights.fixed(Blend(), alone) == Weights(0, 0)
  assert weights.fixed(Blend(), candidates) is None
  assert weights.fixed(Blend(head=0.3), candidates) is None
  assert weights.fixed(
    Blend(head=0.3), candidates._replace(memory_BM=None, text_BM=None)
  ) == Weights(0.3, 0)
  assert weights.fixed(Blend(head=1, memory=0.5, text=0), candidates) == Weights(1, 0.5)
  assert weights.choose(candidates._replace(head_BM=None), targets, Blend()).head == 0


def test_weights_go_through_the_metrics_of_an_evaluation():
  chosen = Weights(0.8, 1.4, 2.0)
  metrics = {'ndcg@10': 0.1, **weights.as_metrics(chosen)}
  assert metrics == {'ndcg@10': 0.1, 'blend_head': 0.8, 'blend_memory': 1.4, 'blend_text': 2.0}
  assert weights.of_metrics(metrics) == chosen
  assert weights.of_metrics({'ndcg@10': 0.1}) is None


def test_the_record_tells_what_chose_the_weights():
  plain = Result({}, np.arange(12), weights=Weights())
  assert weights.record(plain, Blend()) == {}
  found = Result({}, np.arange(1200), rankers={'codes': None}, weights=Weights(0.2, 0.5))
  record = weights.record(found, Blend(memory=0.5))['blend']
  assert weights.line(record) == (
    'score = 0.8 · codes + 0.2 · head + 0.5 · memory; weights chosen by ndcg@10 of 1,200 validation rows, but memory '
    'given by eval.blend'
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'head': 1.5}, r'eval.blend.head must be in \[0, 1\]; got 1.5. Set --config.eval.blend.head'),
    ({'head': -0.1}, r'eval.blend.head must be in \[0, 1\]; got -0.1'),
    ({'memory': -1}, r'eval.blend.memory must be in \[0, 1e\+06\]; got -1'),
  ],
)
def test_weights_given_by_hand_are_checked(fields, message):
  with pytest.raises(ValueError, match=message):
    Blend(**fields)
