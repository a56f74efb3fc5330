"""The BPR baseline: matrix factorisation trained to rank items of a user above other items.

Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback" (UAI 2009), LearnBPR with matrix
factorisation. A user u scores item i with p[u] · q[i] + b[i]. Stochastic gradient ascent on log σ(score of a training
item - score of another item) with weight decay. In contrast to the paper, an epoch takes every training interaction
once, in random order; updates of BATCH interactions are computed at once and summed; and items have a bias. The
negative item is uniform over the items that the user's training sequence does not hold.

A user without training interactions has the mean of the other users' factors, which ranks about by popularity.
"""

import functools
import hashlib
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from recjax.baselines.split import Split
from recjax.baselines.sums import popularity_ranks
from recjax.data.neighbours import descending
from recjax.data.sequences import offsets_of

WIDTH = 64
EPOCHS = 30
BATCH = 256
RATE = 0.1  # learning rate
DECAY = 0.1  # weight decay of factors and biases
SCALE = 0.1  # deviation of the first factors
TRIES = 10  # draws of a negative item; after that the interaction is left out of the epoch
COMPILE_SECONDS = 2.0
STEP_SECONDS = 8e-7  # per interaction and epoch
SCORE_SECONDS = 3e-8  # per row and item
BLOCK_CELLS = 1 << 23  # scores per block of rows, which bounds the memory


class Factors(NamedTuple):
  """Factors of users and items float32 `[U, D]`, `[I, D]`, and biases of items `[I]`."""

  users_UD: np.ndarray
  items_ID: np.ndarray
  biases_I: np.ndarray


_last: dict[bytes, Factors] = {}  # the last training: both splits of an evaluation have the same


def _negatives(
  rng: np.random.Generator, users: np.ndarray, pairs: np.ndarray, num_items: int
) -> np.ndarray:
  """Draws an item for every user that is not among the sorted `pairs`, user · I + item; -1: none was found."""
  drawn = np.full(len(users), -1, np.int32)
  missing = np.arange(len(users))
  for _ in range(TRIES):
    items = rng.integers(0, num_items, len(missing))
    keys = users[missing] * num_items + items
    places = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
    is_free = pairs[places] != keys
    drawn[missing[is_free]] = items[is_free]
    missing = missing[~is_free]
  return drawn


@functools.partial(jax.jit, donate_argnums=0)
def _epoch(
  factors: Factors, batches: tuple[jax.Array, jax.Array, jax.Array], rate: float, decay: float
) -> Factors:
  """Takes a step for every row of users, items and negative items, int32 `[n, BATCH]`; -1 as the negative: none."""

  def step(factors, batch):
    users_UD, items_ID, biases_I = factors
    u, i, j = batch
    is_used = j >= 0
    p, q_i, q_j = users_UD[u], items_ID[i], items_ID[j]
    margin = jnp.sum(p * (q_i - q_j), axis=1) + biases_I[i] - biases_I[j]
    rates = jnp.where(is_used, rate, 0.0)
    pull = (rates * jax.nn.sigmoid(-margin))[:, None]
    shrink = (rates * decay)[:, None]
    users_UD = users_UD.at[u].add(pull * (q_i - q_j) - shrink * p)
    items_ID = items_ID.at[i].add(pull * p - shrink * q_i).at[j].add(-pull * p - shrink * q_j)
    pull, shrink = pull[:, 0], shrink[:, 0]
    biases_I = (
      biases_I.at[i].add(pull - shrink * biases_I[i]).at[j].add(-pull - shrink * biases_I[j])
    )
    return Factors(users_UD, items_ID, biases_I), None

  return lax.scan(step, factors, batches)[0]


def train(split: Split, epochs: int, seed: int = 0) -> Factors:
  """Returns the factors after some epochs on `split.train`; equal arguments give equal bits on one machine.

  It runs on a CPU: sums on other devices may depend on the order of threads. With context events only interactions
  that may be targets are trained on.
  """
  num_items, rng = split.num_items, np.random.default_rng(seed)
  first = Factors(
    rng.normal(0, SCALE, (len(split.train), WIDTH)).astype(np.float32),
    rng.normal(0, SCALE, (num_items, WIDTH)).astype(np.float32),
    np.zeros(num_items, np.float32),
  )
  users = np.repeat(np.arange(len(split.train)), split.train.lengths)
  pairs = np.unique(users * num_items + split.train.values)
  marks = split.train_is_target
  positives = np.arange(len(users)) if marks is None else np.flatnonzero(marks)
  if not len(positives):
    return first._replace(items_ID=np.zeros_like(first.items_ID))
  size = -(-len(positives) // BATCH) * BATCH
  with jax.default_device(_cpu()):
    factors = jax.tree.map(jnp.asarray, first)
    for _ in range(epochs):
      order = rng.permutation(positives)
      negatives = _negatives(rng, users[order], pairs, num_items)
      columns = (users[order].astype(np.int32), split.train.values[order], negatives)
      padded = (np.pad(c, (0, size - len(c)), constant_values=-1) for c in columns)
      factors = _epoch(factors, tuple(c.reshape(-1, BATCH) for c in padded), RATE, DECAY)
    return jax.tree.map(np.asarray, factors)


def _cpu() -> jax.Device | None:
  """Returns a CPU; None, the default device, if JAX_PLATFORMS leaves the CPU out."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return None


def _trained(split: Split) -> Factors:
  digest = hashlib.blake2b(f'{split.num_items}'.encode())
  marks = np.zeros(0) if split.train_is_target is None else split.train_is_target
  for values in (split.train.values, split.train.offsets, marks):
    digest.update(np.ascontiguousarray(values))
  key = digest.digest()
  if key not in _last:
    _last.clear()
    _last[key] = train(split, EPOCHS)
  return _last[key]


def seconds(split: Split) -> float:
  """Returns an estimate of the seconds of `recommend` on a core: to train, and to score every item for every row.

  Only the first split of an evaluation trains. Half of the training is counted for each.
  """
  trained = COMPILE_SECONDS + STEP_SECONDS * EPOCHS * split.train.values.size
  return trained / 2 + SCORE_SECONDS * len(split.histories) * split.num_items


def recommend(split: Split) -> np.ndarray:
  """Ranks all items by p[u] · q[i] + b[i]; see the module for u without training interactions.

  Returns:
    int32 `[U, k]`, best first, -1 after the end of the catalogue. Of equal scores the more popular item in training
    comes first, then the lower item index.
  """
  factors, ranks_I = _trained(split), popularity_ranks(split)
  by_rank_I = np.argsort(ranks_I)
  items_ID, biases_I = factors.items_ID[by_rank_I], factors.biases_I[by_rank_I]
  num_rows, num_items = len(split.histories), split.num_items
  users_UD = _rows(split, factors.users_UD)
  ranked_UK = np.full((num_rows, split.k), -1, np.int32)
  block = max(1, BLOCK_CELLS // max(num_items, 1))
  for start in range(0, num_rows, block):
    scores = users_UD[start : start + block] @ items_ID.T + biases_I[None, :]
    keys = (descending(scores) << np.uint64(32)) | np.arange(num_items, dtype=np.uint64)[None, :]
    if split.exclude_seen:
      seen = split.seen.take(np.arange(start, start + len(keys)))
      keys[np.repeat(np.arange(len(seen)), seen.lengths), ranks_I[seen.values]] = ~np.uint64(0)
    k = min(split.k, num_items)
    keys = (
      np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1) if k < num_items else np.sort(keys)
    )
    items = by_rank_I[(keys & np.uint64(0xFFFFFFFF)).astype(np.int64) % num_items]
    ranked_UK[start : start + block, :k] = np.where(keys == ~np.uint64(0), -1, items)
  return ranked_UK


def _rows(split: Split, users_UD: np.ndarray) -> np.ndarray:
  """Returns the factors of the user of every row, or the mean of users with training interactions: `[rows, D]`."""
  train, marks = split.train, split.train_is_target
  counts_U = train.lengths if marks is None else np.diff(offsets_of(marks)[train.offsets])
  is_trained = counts_U > 0
  mean_D = users_UD[is_trained].mean(axis=0) if is_trained.any() else np.zeros(WIDTH, np.float32)
  known_UD = np.where(is_trained[:, None], users_UD, mean_D[None, :])
  return np.concatenate([known_UD, mean_D[None, :]])[
    split.users
  ]  # -1, an unknown user, is the last row
