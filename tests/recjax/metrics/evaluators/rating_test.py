"""Rating: greedy and expected ratings of an untrained and of a told model, and what is refused."""

import shutil

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences
from recjax.data.tasks.preference import Rating as RatingTask
from recjax.decode.answers import Answerer, Answers
from recjax.decode.scores import Scorer
from recjax.metrics.evaluators import Rating
from recjax.metrics.evaluators.rating import parse_number
from tests.recjax.data.tasks.reading import example, pairs, read, sid
from tests.recjax.metrics.evaluators.contexts import context_of


def true_ratings(dataset, split):
  return np.load(dataset.folder / 'interactions' / f'{split}_ratings.npy').astype(float)


def test_the_prompt_of_inference_is_that_of_training(decoder_corpus):
  corpus, component = decoder_corpus, RatingTask(max_items=4)
  ratings, offsets = corpus.dataset.train_ratings, corpus.train.offsets
  for unit, (u, p) in list(enumerate(pairs(corpus)))[:30]:
    part = slice(offsets[u], offsets[u] + p)
    prompt = component.inference_prompt(
      corpus, corpus.train.values[part], ratings[part], corpus.train.values[offsets[u] + p]
    )
    np.testing.assert_array_equal(prompt, example(component, corpus, unit, 0).inputs)
  first = component.inference_prompt(corpus, np.empty(0, np.int32), np.empty(0), 5)
  assert read(corpus, first) == f'<bos> Ratings so far: . The rating of {sid(corpus, 5)} is'


def test_an_untrained_model_predicts_the_expectation_of_its_own_probabilities(rated, context):
  dataset, rows = rated[1], np.array([0, 3, 4, 11, 25])
  found = Rating().evaluate(context, 'test', rows)
  true = true_ratings(dataset, 'test')[rows]
  assert found.predictions['rating'].tolist() == true.tolist()
  # The same probabilities in another batch and order, one rating after the other.
  component, corpus = context.component('rating'), context.corpus
  histories, known = context.histories('test', rows, ('ratings',))
  values = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
  table = Sequences.from_lists([component.answer(corpus, value) for value in values])
  scorer = Scorer(context.model, dataset.vocabulary.space, table, context.mesh, 25)
  prompts = []
  for r, row in enumerate(rows):
    target = int(dataset.targets('test')[row])
    prompt = component.inference_prompt(corpus, histories[r], known[r]['ratings'], target)
    assert read(corpus, prompt).endswith(f'The rating of {sid(corpus, target)} is')
    prompts += [prompt] * 5
  scores = scorer.score(context.params, prompts, np.tile(np.arange(5), 5)[:, None])
  expected = scipy.special.softmax(scores.reshape(5, 5).astype(np.float64), axis=1) @ values
  np.testing.assert_allclose(found.predictions['expected'], expected, atol=1e-4)
  metrics = found.metrics
  rmse = sklearn.metrics.root_mean_squared_error(true, found.predictions['expected'])
  assert metrics['rmse'] == pytest.approx(rmse)
  mean = true_ratings(dataset, 'train').mean()
  assert metrics['global_mean_rmse'] == pytest.approx(np.sqrt(((true - mean) ** 2).mean()))
  assert metrics['answers_without_number'] == 5  # an untrained model does not end its answers
  assert metrics['greedy_rmse'] == pytest.approx(metrics['global_mean_rmse'])
  assert 0 < metrics['rating_mass'] < 1
  assert metrics['rows'] == 5


def test_answers_are_read_as_numbers_and_cut_to_the_range_of_training(rated, context, monkeypatch):
  texts = ['4', '2.5', 'great', '99', '3 3']

  def answer(self, params, prompts, progress=None):
    tokens = [rated[1].vocabulary.encode(text) for text in texts]
    return Answers(Sequences.from_lists(tokens), np.array([True] * 5))

  monkeypatch.setattr(Answerer, 'answer', answer)
  found = Rating().evaluate(context, 'test', np.arange(5))
  mean = true_ratings(rated[1], 'train').mean()
  np.testing.assert_allclose(found.predictions['greedy'], [4, 2.5, mean, 5, mean])
  assert found.metrics['answers_without_number'] == 2
  assert found.predictions['answer'].tolist() == texts


def test_numbers_are_read_in_every_locale():
  read_as = {'4': 4, ' 4.5 ': 4.5, '-2': -2, '1e+06': 1e6, '+3': 3}
  assert {text: parse_number(text) for text in read_as} == read_as
  for text in ('', '4,5', 'nan', 'inf', '4 stars', '1_0', '٤', '.', '4.', '0x4', '4 5'):
    assert parse_number(text) is None


def with_ratings(rated, folder, change):
  shutil.copytree(rated[0].prepared_folder, folder)
  for name in ('train', 'validation', 'test'):
    path = folder / 'interactions' / f'{name}_ratings.npy'
    np.save(path, change(name, np.load(path)))
  return Dataset.load(folder)


def test_rows_without_a_rating_are_left_out(rated, tmp_path):
  def change(name, ratings):
    ratings[::3] = np.nan
    return ratings

  dataset = with_ratings(rated, tmp_path / 'some', change)
  context = context_of((rated[0], dataset))
  found = Rating().evaluate(context, 'test', np.arange(10))
  assert found.rows.tolist() == [1, 2, 4, 5, 7, 8]
  assert found.metrics['rows_without_rating'] == 4
  assert Rating().evaluate(context, 'test', np.array([0, 3])).metrics == {'rows': 0}


def test_what_has_no_ratings_is_refused_at_the_start(rated, tmp_path):
  def change(name, ratings):
    return ratings if name == 'train' else np.full_like(ratings, np.nan)

  corpus = Corpus(with_ratings(rated, tmp_path / 'none', change), False)
  with pytest.raises(ValueError, match='rating> needs rows with a rating in the validation split'):
    Rating().check_corpus(corpus)

  def many(name, ratings):
    return np.arange(len(ratings), dtype=np.float32) / 7

  monkey = Corpus(with_ratings(rated, tmp_path / 'many', many), False)
  Rating(values=(1.0, 2.0)).check_corpus(monkey)
  Rating().check_corpus(monkey)  # a few hundred ratings
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('recjax.metrics.evaluators.rating.MOST_VALUES', 50)
    with pytest.raises(ValueError, match=r'values must be at most 50 ratings; training has \d+'):
      Rating().check_corpus(monkey)


def test_lower_errors_are_better():
  assert {'rmse', 'mae', 'greedy_rmse'} <= Rating().lower_is_better
  assert 'auc' not in Rating().lower_is_better
