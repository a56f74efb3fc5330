"""Masked items: ranks from exact scores of the whole catalogue, on one and on eight devices, and what is refused."""

import dataclasses

import numpy as np
import pytest

from recjax.data.corpus import Corpus
from recjax.data.sequences import Sequences
from recjax.decode.scores import Scorer
from recjax.metrics import ranking
from recjax.metrics.evaluators import Masked
from recjax.metrics.evaluators.base import Context
from tests.recjax.data.tasks.reading import read, sid
from tests.recjax.metrics.evaluators.ranking_test import context_of


@pytest.fixture(scope='module')
def context(rated):
  """The context whose search has one compiled program for all tests; mim shows at most five items."""
  return with_five_items(context_of(rated))


def with_five_items(context: Context) -> Context:
  component = dataclasses.replace(context.components['mim'], max_items=5)
  return dataclasses.replace(context, components=context.components | {'mim': component})


def exact_ranks(context: Context, prompts: list[str], masked: np.ndarray) -> np.ndarray:
  """Ranks of the masked items from the scores of all items after each prompt; of one SID, the most popular first."""
  corpus, dataset = context.corpus, context.dataset
  space, count = dataset.vocabulary.space, dataset.num_items
  scorer = Scorer(context.model, space, Sequences.from_lists(corpus.sid_tokens_IL), context.mesh, 8)
  scores = scorer.score(
    context.params, prompts, np.tile(np.arange(count), (len(prompts), 1)), 'scores'
  )
  popularity = np.bincount(corpus.train.values, minlength=count)
  order = [np.lexsort((np.arange(count), -popularity, -np.round(row, 4))) for row in scores]
  return np.array([row.tolist().index(item) for row, item in zip(order, masked, strict=True)])


@pytest.mark.parametrize('position', ['end', 'random'])
def test_the_masked_item_is_ranked_by_the_exact_scores_of_all_items(rated, context, position):
  dataset, corpus, component = rated[1], context.corpus, context.components['mim']
  rows = np.arange(0, 40, 3)
  found = Masked(position=position).evaluate(context, 'test', rows)
  histories, _ = dataset.histories_and_targets('test')
  prompts, wanted = [], []
  for row, place, item in zip(
    rows, found.predictions['place'], found.predictions['masked'], strict=True
  ):
    history = histories[row].tolist()
    if position == 'end':
      assert place == len(history)
      wanted.append(dataset.targets('test')[row])
      text = f'{sid(corpus, *history[-4:])} <mask>'
    else:
      assert len(history) - 5 <= place < len(history)
      wanted.append(history[place])
      first = max(len(history) - 5, 0)
      parts = [sid(corpus, *history[first:place]), '<mask>', sid(corpus, *history[place + 1 :])]
      text = ' '.join(part for part in parts if part)
    shown = [*history[:place], -1, *history[place + 1 :]]
    prompts.append(component.inference_prompt(corpus, np.array(shown)))
    assert read(corpus, prompts[-1]) == f'<bos> Fill in the missing purchases: {text}'
    assert item == wanted[-1]
  ranks = exact_ranks(context, prompts, np.array(wanted))
  assert found.ranked.ranks_U.tolist() == ranks.tolist()
  for name, value in ranking.ranking_metrics(ranks, context.settings.ks).items():
    assert found.metrics[name] == pytest.approx(value)
  assert set(Masked().metrics(context.settings)) <= set(found.metrics)
  assert found.metrics['rows'] == len(rows) and found.metrics['rows_without_history'] == 0
  if position == 'random':
    last = histories.lengths[rows] - 1  # the validation items
    assert found.metrics['masked_in_training'] == (found.predictions['place'] < last).sum() > 0
    assert len(set((last - found.predictions['place']).tolist())) > 2
    again = Masked(position=position).evaluate(context, 'test', rows[5:8])
    assert again.predictions['place'].tolist() == found.predictions['place'][5:8].tolist()


def test_eight_devices_give_the_metrics_of_one(rated, context):
  eight = with_five_items(context_of(rated, sizes=(2, 2, 2)))
  for kind in (Masked(), Masked(position='random')):
    found, others = (kind.evaluate(each, 'test', np.arange(40)) for each in (context, eight))
    assert found.metrics == others.metrics
    np.testing.assert_array_equal(found.ranked.ranks_U, others.ranked.ranks_U)


def test_only_items_that_may_be_targets_are_masked(viewed, context):
  context = dataclasses.replace(context, dataset=viewed)
  rows = np.arange(40)
  found = Masked(position='random').evaluate(context, 'test', rows)
  histories, _ = viewed.histories_and_targets('test')
  events = viewed.history_column('test', 'events')
  bought = viewed.event_names.index('buy')
  for row, place in zip(found.rows, found.predictions['place'], strict=True):
    assert events[histories.offsets[row] + place] == bought
  without = [
    row
    for row in rows
    if not (events[slice(*histories.offsets[row : row + 2])][-5:] == bought).any()
  ]
  assert found.metrics['rows_without_history'] == len(without) == 40 - len(found.rows)


def test_rows_without_a_history_are_left_out_or_refused(rated, context, monkeypatch):
  dataset = rated[1]
  histories, targets = dataset.histories_and_targets('test')
  lengths = np.array([0, 1, 2] + [5] * 37)
  cut = Sequences.from_lists([histories[u][:n] for u, n in enumerate(lengths)])
  monkeypatch.setattr(
    type(dataset), 'histories_and_targets', lambda self, split: (cut, np.asarray(targets))
  )
  ends = Masked().evaluate(context, 'test', np.arange(3))
  assert ends.rows.tolist() == [1, 2] and ends.metrics['rows_without_history'] == 1
  inside = Masked(position='random').evaluate(context, 'test', np.arange(3))
  assert inside.rows.tolist() == [2] and inside.metrics['rows_without_history'] == 2
  none = Masked().evaluate(context, 'test', np.arange(1))
  assert none.metrics == {'rows': 0, 'rows_without_history': 1} and not len(none.rows)
  cut = Sequences.from_lists([[]] * 40)
  with pytest.raises(ValueError, match=r'needs rows with a history of 1 items in the validation'):
    Masked().check_corpus(Corpus(dataset, False))


def test_a_component_that_is_absent_or_of_another_task_is_refused(rated):
  components = rated[0].active_mixture
  with pytest.raises(
    ValueError, match=r"component must name an active component .*\(mim\); got 'm'"
  ):
    Masked(component='m').check(components)
  with pytest.raises(
    ValueError, match=r"task mim \(mim\); got 'rating'\. Set --config\.evaluators"
  ):
    Masked(component='rating').check(components)
  with pytest.raises(
    ValueError, match=r'needs an active component with the task mim .*Set --config'
  ):
    Masked().check({'rating': components['rating']})
  with pytest.raises(ValueError, match='position must be one of end, random'):
    Masked(position='start')
