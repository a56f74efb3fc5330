"""Baselines of rating prediction, fitted on training ratings alone; `RATING_BASELINES` lists them by name."""

from collections.abc import Callable
import dataclasses

import numpy as np

# Ratings that the mean of an item, or of a user, counts beside the true ones: a pull to zero bias.
ITEM_PULL, USER_PULL = 10.0, 15.0
ROUNDS = 20


@dataclasses.dataclass(frozen=True)
class Ratings:
  """The ratings of the training part.

  Attributes:
    users_R, items_R: ints, who rated what.
    ratings_R: float64.
    num_users, num_items: sizes of the log.
  """

  users_R: np.ndarray
  items_R: np.ndarray
  ratings_R: np.ndarray
  num_users: int
  num_items: int

  @property
  def mean(self) -> float:
    return float(self.ratings_R.mean())


def global_mean(ratings: Ratings, users_U: np.ndarray, items_U: np.ndarray) -> np.ndarray:
  """Predicts the mean of all ratings."""
  return np.full(len(items_U), ratings.mean)


def item_mean(ratings: Ratings, users_U: np.ndarray, items_U: np.ndarray) -> np.ndarray:
  """Predicts the mean of the item's ratings; for an item without ratings the global mean."""
  counts_I = np.bincount(ratings.items_R, minlength=ratings.num_items)
  sums_I = np.bincount(ratings.items_R, ratings.ratings_R, ratings.num_items)
  means_I = np.where(counts_I > 0, sums_I / np.maximum(counts_I, 1), ratings.mean)
  return means_I[items_U]


def user_item_bias(ratings: Ratings, users_U: np.ndarray, items_U: np.ndarray) -> np.ndarray:
  """Predicts the global mean plus a bias of the user and one of the item.

  The biases minimise the squared error plus ITEM_PULL times the sum of squared item biases plus USER_PULL times that of
  the users, by alternating least squares (Koren, "Factor in the neighbors", TKDD 2010, section 2.1; the pulls and
  the rounds are those of the library Surprise, doubled rounds).
  """
  items_R, users_R = ratings.items_R, ratings.users_R
  left_R = ratings.ratings_R - ratings.mean
  weights_I = ITEM_PULL + np.bincount(items_R, minlength=ratings.num_items)
  weights_U = USER_PULL + np.bincount(users_R, minlength=ratings.num_users)
  user_bias = np.zeros(ratings.num_users)
  for _ in range(ROUNDS):
    item_bias = np.bincount(items_R, left_R - user_bias[users_R], ratings.num_items) / weights_I
    user_bias = np.bincount(users_R, left_R - item_bias[items_R], ratings.num_users) / weights_U
  return ratings.mean + user_bias[users_U] + item_bias[items_U]


# (training ratings, users [U], items [U]) -> predicted ratings float64 [U].
RATING_BASELINES: dict[str, Callable[[Ratings, np.ndarray, np.ndarray], np.ndarray]] = {
  'global_mean': global_mean,
  'item_mean': item_mean,
  'user_item_bias': user_item_bias,
}
