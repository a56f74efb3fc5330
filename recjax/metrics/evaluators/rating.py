"""Rating: the predicted rating of the held-out item, as the model writes it and as an expectation."""

import dataclasses
import re
from typing import ClassVar

import numpy as np
import scipy.special

from recjax.baselines.ratings import RATING_BASELINES, Ratings
from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.data.tasks.preference import number
from recjax.decode.answers import Answerer
from recjax.decode.scores import Scorer
from recjax.metrics import ranking, ratings
from recjax.metrics.evaluators.base import Context, Evaluator, Result
from recjax.schema.checks import setting
from recjax.schema.run import Eval

MOST_VALUES = 1000  # distinct ratings of an expectation
SPARE_TOKENS = 4  # of an answer beyond the longest rating, so that a longer number is seen as one
_NUMBER = re.compile(r'[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rating(Evaluator):
  """Predicts the rating of the held-out item: rmse, mae, and auc of liked items; for baselines too.

  The rows are those whose target has a rating. The prompt is that of the rating component: the history with its
  ratings, and the item.

  `rmse`, `mae` and `auc` are those of the expected rating: the ratings that occur in training, weighted by the exact
  probabilities of their answers, which are normalised over these ratings. `greedy_rmse` and so on are those of the
  answer as the model writes it. `answers_without_number` counts the answers that are no number; the mean of the training
  ratings replaces them. `rating_mass` is the mean probability of the ratings before the normalisation. Baselines are
  fitted on the training ratings alone. All predictions are cut to the range of the training ratings.
  """

  evaluator: str = 'rating'
  liked_from: float = setting(4.0, 'Lowest rating of a liked item, for auc.')
  values: tuple[float, ...] = setting(
    (), 'Ratings of the expectation. (): all that occur in training.'
  )

  task = 'rating'
  lower_is_better: ClassVar[frozenset[str]] = frozenset(
    {*ratings.LOWER_IS_BETTER, *(f'greedy_{name}' for name in ratings.LOWER_IS_BETTER)}
  )

  def check_corpus(self, corpus: Corpus) -> None:
    for split in SPLITS:
      if not len(rated_rows(corpus.dataset, split)):
        raise ValueError(
          f'{self.prefix.removesuffix(".")} needs rows with a rating in the {split} split; no held-out interaction has '
          'one. Set --config.data.rating_column, or leave the evaluator out'
        )
    count = len(self._values(corpus.dataset))
    if count > MOST_VALUES:
      raise ValueError(
        f'{self.prefix}values must be at most {MOST_VALUES} ratings; training has {count} different ones. Set '
        f'--config.{self.prefix}values to the ratings that an expectation needs'
      )

  def measured_rows(self, context: Context, split: str) -> np.ndarray:
    return rated_rows(context.dataset, split)

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    return (*ratings.NAMES, *(f'greedy_{name}' for name in ratings.NAMES))

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    dataset = context.dataset
    asked = rows
    rows = np.intersect1d(rows, rated_rows(dataset, split))
    if not len(rows):
      return Result({'rows': 0}, rows)
    true_R = np.asarray(dataset.column(f'{split}_ratings'), np.float64)[rows]
    targets_R = np.asarray(dataset.targets(split))[rows]
    prompts = self._prompts(context, split, rows, targets_R)
    scores_RN, values_N = self._scores(context, prompts, f'score ratings, {split}')
    expected_R = scipy.special.softmax(scores_RN, axis=1) @ values_N
    mass_R = np.exp(scipy.special.logsumexp(scores_RN, axis=1))
    texts, answers_R = self._answers(context, prompts, f'answer with a rating, {split}')

    training = training_ratings(dataset)
    low, high = training.ratings_R.min(), training.ratings_R.max()
    expected_R = np.clip(expected_R, low, high)
    written_R = np.clip(np.where(np.isnan(answers_R), training.mean, answers_R), low, high)
    users_R = dataset.row_users(split)[rows]
    metrics = ratings.rating_metrics(expected_R, true_R, self.liked_from)
    predicted = {'greedy': written_R} | {
      name: np.clip(predict(training, users_R, targets_R), low, high)
      for name, predict in RATING_BASELINES.items()
    }
    for name, predicted_R in predicted.items():
      found = ratings.rating_metrics(predicted_R, true_R, self.liked_from)
      metrics |= ratings.named(name, found)
    metrics |= ranking.mean_and_error('rating_mass', mass_R)
    metrics |= {
      'rows': len(rows),
      'rows_without_rating': len(asked) - len(rows),
      'answers_without_number': int(np.isnan(answers_R).sum()),
    }
    columns = {'rating': true_R, 'expected': expected_R, 'answer': texts} | predicted
    return Result(metrics, rows, columns)

  def _values(self, dataset: Dataset) -> np.ndarray:
    """Returns the ratings of the expectation, ascending, float64 `[N]`, as prompts show them."""
    given = self.values or np.unique(training_ratings(dataset).ratings_R).tolist()
    return np.unique([float(number(value)) for value in given])

  def _prompts(
    self, context: Context, split: str, rows: np.ndarray, targets_R: np.ndarray
  ) -> list[np.ndarray]:
    component, corpus = context.component('rating'), context.corpus
    histories, known = context.histories(split, rows, ('ratings',))
    return [
      component.inference_prompt(corpus, items, columns['ratings'], item)
      for items, columns, item in zip(histories, known, targets_R.tolist(), strict=True)
    ]

  def _scores(
    self, context: Context, prompts: list[np.ndarray], progress: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-probability of every rating as an answer, float64 `[R, N]`, and the ratings `[N]`."""
    values_N = self._values(context.dataset)
    component, corpus = context.component('rating'), context.corpus

    def make() -> Scorer:
      table = Sequences.from_lists([component.answer(corpus, value) for value in values_N])
      return Scorer(
        context.model,
        context.dataset.vocabulary.space,
        table,
        context.mesh,
        context.settings.batch_size,
        context.limits.phase_timeout,
      )

    scorer = context.once(('rating', 'scorer', self.values), make)
    chosen_RN = np.broadcast_to(np.arange(len(values_N)), (len(prompts), len(values_N)))
    scores_RN = scorer.score(context.params, prompts, chosen_RN, progress)
    return scores_RN.astype(np.float64), values_N

  def _answers(
    self, context: Context, prompts: list[np.ndarray], progress: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the greedy answers as texts `[R]` and as numbers, float64 `[R]`; NaN: no number."""
    corpus, vocabulary = context.corpus, context.dataset.vocabulary
    longest = max(len(corpus.prompter.text(number(v))) for v in self._values(context.dataset))

    def make() -> Answerer:
      return Answerer(
        context.model,
        vocabulary.space,
        context.mesh,
        batch_size=context.settings.batch_size,
        limit=longest + SPARE_TOKENS,
        end=corpus.prompter.form.end,
        timeout=context.limits.phase_timeout,
      )

    answerer = context.once(('rating', 'answerer', self.values), make)
    answers = answerer.answer(context.params, prompts, progress)
    texts = [vocabulary.decode(answers.tokens[r].tolist()) for r in range(len(prompts))]
    numbers = [
      parse_number(text) if is_ended else None
      for text, is_ended in zip(texts, answers.is_ended_U.tolist(), strict=True)
    ]
    return np.array(texts, object), np.array([np.nan if n is None else n for n in numbers])


def parse_number(text: str) -> float | None:
  """Returns the number that a text is, such as '4', ' 4.5' or '1e+06', in any locale; None: it is no number."""
  text = text.strip()
  return float(text) if _NUMBER.fullmatch(text) else None


def rated_rows(dataset: Dataset, split: str) -> np.ndarray:
  """Returns the rows of a split whose target has a rating, int64."""
  found = dataset.column(f'{split}_ratings')
  return np.empty(0, np.int64) if found is None else np.flatnonzero(~np.isnan(found))


def training_ratings(dataset: Dataset) -> Ratings:
  """Returns the ratings of the training part."""
  is_rated = ~np.isnan(dataset.train_ratings)
  users = np.repeat(np.arange(dataset.num_users), dataset.train.lengths)
  return Ratings(
    users[is_rated],
    np.asarray(dataset.train.values)[is_rated],
    np.asarray(dataset.train_ratings, np.float64)[is_rated],
    dataset.num_users,
    dataset.num_items,
  )
