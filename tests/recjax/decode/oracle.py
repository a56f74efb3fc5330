"""A plain Python beam search in float64, and a toy backbone whose scores are exact in float32.

The toy's log-probabilities are multiples of 1/256, so sums are exact in both precisions, and ties are exact too. The
log-probability of a code depends on the whole prefix and on the prompt.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.sids.token_space import TokenSpace

STATES = 61  # a prime
TEXT = 3  # ids before the first code


class ToyCache(NamedTuple):
  """The state of every beam, int32 `[B, M]`."""

  state_BM: jax.Array

  def choose_beams(self, parents_BM: jax.Array) -> 'ToyCache':
    return ToyCache(jnp.take_along_axis(self.state_BM, parents_BM, axis=1))


class ToyTables(NamedTuple):
  """Log-probabilities of the codes of every level in every state."""

  space: TokenSpace
  tables: tuple[jax.Array, ...]

  def level_logits(self, x: jax.Array, level: int) -> jax.Array:
    return jnp.take(self.tables[level], x[..., 0], axis=0)

  def log_denominator(self, x: jax.Array) -> jax.Array:
    return jnp.zeros((*x.shape[:-1], 1))


class Toy:
  """A backbone (`start`, `step`, `tables`) whose state is a number; search it with the softmax 'full'."""

  def __init__(self, sizes: Sequence[int], seed: int = 0, spread: int = 4096):
    rng = np.random.default_rng(seed)
    self.values = [-rng.integers(0, spread, (STATES, size)) / 256 for size in sizes]
    tables = tuple(jnp.asarray(values, jnp.float32) for values in self.values)
    self.tables = ToyTables(TokenSpace(TEXT, tuple(sizes)), tables)

  def start(self, prompts, beams: int, suffix_length: int):
    del suffix_length
    state_B1 = prompts['tokens'][:, :1] % STATES
    return state_B1, ToyCache(jnp.tile(state_B1, (1, beams)))

  def step(self, tokens_BM: jax.Array, step: int, cache: ToyCache):
    del step
    state_BM = (cache.state_BM * 7 + tokens_BM) % STATES
    return state_BM[..., None], ToyCache(state_BM)

  def log_probs(self, prompt: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Returns the function from a prefix of codes to the float64 log-probabilities of the codes after it."""
    starts = self.tables.space.level_starts

    def of(prefix: tuple[int, ...]) -> np.ndarray:
      state = prompt % STATES
      for start, code in zip(starts, prefix, strict=False):
        state = (state * 7 + TEXT + start + code) % STATES
      return self.values[len(prefix)][state]

    return of


def search(
  log_probs: Callable[[tuple[int, ...]], Sequence[float]],
  codes_IL: np.ndarray,
  widths: Sequence[int],
  beams: int,
  excluded: Collection[int] = (),
  within: Collection[int] | None = None,
  popularity: Sequence[int] | None = None,
  ranks_first: bool = False,
) -> list[tuple[int, float]]:
  """Returns (item, score) of a beam search in float64, best first; equal scores in the order of their codes.

  Args:
    log_probs: prefix of codes → log-probabilities of the codes after it.
    codes_IL: the semantic ID of every item.
    widths: the number of prefixes that are kept at every level.
    beams: the number of items.
    excluded: items that are not returned.
    within: items that may be returned. None: all.
    popularity: of every item; of items with one semantic ID the most popular comes first. None: the lower index.
    ranks_first: whether a semantic ID stands for the first of its items that may be returned.
  """
  sids = [tuple(map(int, codes)) for codes in codes_IL]
  inside = range(len(sids)) if within is None else within
  left = [i for i in inside if i not in set(excluded)]
  found: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
  levels = len(sids[0])
  for level in range(levels):
    alive = {sids[i][: level + 1] for i in (left if level == levels - 1 else inside)}
    grown = []
    for prefix, score in found:
      values = log_probs(prefix)
      codes = sorted(p[-1] for p in alive if p[:-1] == prefix)
      grown += [((*prefix, code), score + float(values[code])) for code in codes]
    found = sorted(grown, key=lambda each: -each[1])[: widths[level]]
  items_of = {}
  for item in sorted(left, key=lambda i: (-(popularity[i] if popularity is not None else 0), i)):
    items_of.setdefault(sids[item], []).append(item)
  cut = 1 if ranks_first else None
  ranked = [(item, score) for sid, score in found for item in items_of[sid][:cut]]
  # Semantic IDs of one score stay apart, so the order is that of the beams.
  return ranked[: len(found) if ranks_first else beams]
