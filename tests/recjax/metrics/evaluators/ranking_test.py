"""Ranking of candidates, compared with a search over the whole catalogue, on one and on eight devices."""

import json

import numpy as np
import pytest

from recjax import config as config_lib
from recjax.data.corpus import Corpus
from recjax.metrics.evaluators import Ranking
from tests.recjax.data import rated_world
from tests.recjax.metrics.evaluators.contexts import context_of


def test_candidates_have_the_scores_of_a_search_over_the_whole_catalogue(rated, context):
  rows = np.arange(1, 40, 2)
  found = Ranking(candidates=8, ks=(1, 5)).evaluate(context, 'test', rows)
  histories, known = context.histories('test', rows)
  every_item, every_score = context.ranker.rank(context.params, histories, known=known)
  codes = rated[1].sids.codes_IL
  targets = rated[1].targets('test')[rows]
  hits = []
  for r, (items, scores) in enumerate(
    zip(found.predictions['items'], found.predictions['scores'], strict=True)
  ):
    by_item = dict(zip(every_item[r].tolist(), every_score[r].tolist(), strict=True))
    np.testing.assert_allclose(scores, [by_item[i] for i in items.tolist()], atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    assert targets[r] in items
    others = [i for i in items.tolist() if i != targets[r]]
    tied = [i for i in others if (codes[i] == codes[targets[r]]).all()]  # items 0 and 1
    ahead = sum(by_item[i] > by_item[int(targets[r])] + 1e-6 for i in others if i not in tied)
    assert (found.predictions['ahead'][r], found.predictions['tied'][r]) == (ahead, len(tied))
    hits.append(1 / (1 + len(tied)) if ahead == 0 else 0.0)
  assert found.metrics['hit@1'] == pytest.approx(np.mean(hits))
  assert found.metrics['rows'] == len(rows)
  assert found.metrics['rows_sharing_a_sid'] == (found.predictions['tied'] > 0).sum()
  assert 0 <= found.metrics['popularity_auc'] <= 1


def test_the_models_own_prompt_ranks_the_candidates_of_the_task(rated, context):
  evaluator = Ranking(candidates=10, answer=True, seed=2)
  found = evaluator.evaluate(context, 'test', np.arange(40))
  assert found.metrics['answer_candidates'] == 4  # as in training
  assert set(evaluator.metrics(context.settings)) <= set(found.metrics)
  shown = found.predictions['answer_others'] + 1
  assert (shown == 4).all()
  answers, targets = found.predictions['answer'], rated[1].targets('test')
  assert found.metrics['answer_accuracy'] == pytest.approx((answers == targets).mean())
  counted = found.metrics['answers_without_candidate']
  assert 0 < counted <= 40 * (1 - found.metrics['answer_accuracy'])
  fewer = evaluator.evaluate(
    context, 'test', np.array([3, 30])
  )  # another batch, the same candidates
  for name in ('items', 'answer', 'answer_ahead'):
    np.testing.assert_array_equal(
      fewer.predictions[name], found.predictions[name][[3, 30]], err_msg=name
    )


def test_candidates_of_a_file_are_ranked(rated, context, tmp_path):
  path = tmp_path / 'candidates.jsonl'
  lines = [
    {'user': 'u03', 'candidates': ['i01', 'i02', 'i05', 'i09']},
    {'user': 'u07', 'candidates': ['i11']},
  ]
  path.write_text('\n'.join(map(json.dumps, lines)))
  Ranking(file=str(path)).check_corpus(context.corpus)
  found = Ranking(file=str(path)).evaluate(context, 'test', np.arange(40))
  assert found.rows.tolist() == [3, 7]
  assert found.predictions['items'].shape[1] in (4, 5)
  last = found.predictions['items'][1]
  assert (last[2:] == -1).all()
  ids = {rated[1].items[i]['id'] for i in last[:2].tolist()}
  assert ids == {'i11', rated[1].items[rated[1].targets('test')[7]]['id']}
  assert Ranking(file=str(path)).evaluate(context, 'validation', np.arange(40)).metrics == {
    'rows': 0
  }


def test_what_cannot_be_ranked_is_refused_at_the_start(rated, tmp_path):
  with pytest.raises(
    ValueError, match=r'evaluators.hard.candidates must be at most \d+: .*got 100'
  ):
    context_of(rated, hard=Ranking(candidates=100))
  with pytest.raises(ValueError, match=r'ks must not exceed the number of candidates \(5\); got'):
    Ranking(candidates=5)
  with pytest.raises(ValueError, match='candidates must be at least 2'):
    Ranking(candidates=1)
  with pytest.raises(ValueError, match=r'evaluators.hard.file must be a file; got .*none.jsonl'):
    context_of(rated, hard=Ranking(file=str(tmp_path / 'none.jsonl')))
  config = rated_world.config_dict(tmp_path)
  del config.mixture.ranking
  config.evaluators.asked = config_lib.evaluator('ranking', candidates=4, ks=(1,), answer=True)
  made = config_lib.from_config_dict(config)
  with pytest.raises(
    ValueError, match=r'evaluators.asked.answer needs an active component .*ranking'
  ):
    config_lib.check_evaluators(made)


def test_an_item_that_every_history_holds_is_no_candidate(rated):
  corpus = Corpus(rated[1], is_encoder_decoder=False)
  Ranking(candidates=10).check_corpus(corpus)  # 24 items, histories of at most 12
