"""The item vectors of an RQ-VAE's training, standardised: on the device if they fit, else read part by part."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.sids.vectors import Vectors

# Bytes of float32 vectors that are kept on the device. Up to this size an epoch is one part.
RESIDENT = 1 << 29
PART = 1 << 17  # items of a part
BLOCK = 4096  # items that are read together


class Standardised:
  """Vectors minus their mean, divided by one number, so that the mean variance of a dimension is 1.

  A large catalogue is read from its file in every epoch. Its order is a random order of blocks of 4,096 items, of
  which 32 form a part; the items of a part are in random order. So a disk reads long runs, and the device holds one
  part.

  Attributes:
    mean_D: float32.
    scale: what the centred vectors are divided by.
    num_items: I.
    width: D.
  """

  def __init__(self, vectors_ID: Vectors):
    self._vectors_ID = vectors_ID
    self.num_items, self.width = vectors_ID.shape
    self._resident_ID = None
    if self.num_items * self.width * 4 <= RESIDENT:
      whole_ID = vectors_ID[:]
      self.mean_D = whole_ID.mean(axis=0, dtype=np.float64).astype(np.float32)
      squares = (whole_ID - self.mean_D) ** 2
      self.scale = float(np.sqrt(np.mean(squares, dtype=np.float64))) or 1.0
      self._resident_ID = jnp.asarray((whole_ID - self.mean_D) / self.scale, jnp.float32)
    else:
      self.mean_D = vectors_ID.mean().astype(np.float32)
      sums = (
        ((block_BD - self.mean_D) ** 2).sum(dtype=np.float64) for block_BD in vectors_ID.blocks()
      )
      self.scale = float(np.sqrt(sum(sums) / (self.num_items * self.width))) or 1.0

  def steps(self, batch: int) -> int:
    """Returns the steps of an epoch: whole batches, of a large catalogue whole parts."""
    steps = self.num_items // batch
    return steps - steps % self.steps_of_part(batch)

  def steps_of_part(self, batch: int) -> int:
    """Returns the steps of a part. A catalogue on the device is one part."""
    return self.num_items // batch if self._resident_ID is not None else max(1, PART // batch)

  def order(self, rng: np.random.Generator, batch: int) -> np.ndarray:
    """Draws the items of an epoch, int64 `[steps, batch]`."""
    taken = self.steps(batch) * batch
    if self._resident_ID is not None:
      return rng.permutation(self.num_items)[:taken].reshape(-1, batch)
    firsts = BLOCK * rng.permutation(-(-self.num_items // BLOCK))
    order_I = (firsts[:, None] + np.arange(BLOCK)).ravel()
    order_I = order_I[order_I < self.num_items][:taken]
    part = self.steps_of_part(batch) * batch
    for begin in range(0, taken, part):
      rng.shuffle(order_I[begin : begin + part])
    return order_I.reshape(-1, batch)

  def local(self, draws: Mapping[str, Any]) -> tuple[dict[str, Any], jax.Array]:
    """Returns draws with `items` and `pairs` as rows of an array, and that array, float32 `[n, D]`."""
    if self._resident_ID is not None:
      return dict(draws), self._resident_ID
    named = {name: draws[name] for name in ('items', 'pairs') if name in draws}
    rows = np.concatenate([numbers.ravel() for numbers in named.values()])
    places, begin = {}, 0
    for name, numbers in named.items():
      places[name] = begin + np.arange(numbers.size).reshape(numbers.shape)
      begin += numbers.size
    return dict(draws) | places, jnp.asarray(self.read(rows))

  def chunks(self, rows: np.ndarray | None) -> Iterator[jax.Array]:
    """Yields the vectors of items, of all for None, in order and in arrays `[n, D]`."""
    if self._resident_ID is not None:
      yield self._resident_ID if rows is None else self._resident_ID[rows]
      return
    rows = np.arange(self.num_items) if rows is None else rows
    for begin in range(0, len(rows), PART):
      yield jnp.asarray(self.read(rows[begin : begin + PART]))

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Reads the vectors of items from the file, in its order: float32 `[n, D]`."""
    order = np.argsort(rows, kind='stable')
    x_ND = np.empty((len(rows), self.width), np.float32)
    for begin in range(0, len(rows), BLOCK):
      part = order[begin : begin + BLOCK]
      x_ND[part] = (self._vectors_ID[rows[part]] - self.mean_D) / self.scale
    return x_ND
