"""Texts as token ids through a model: batches of near lengths, few shapes, spread over the mesh."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from etils import epath
import jax
import numpy as np
import tqdm

from data_prep.encoders import resumable
from recjax.data.sequences import Sequences
from recjax.sharding import mesh as mesh_lib

_MAX_SHAPES = 16
_BATCHES_A_SHAPE = 1.5  # compiling one takes about as long (MiniLM on a CPU)
_TOKENS = {'cpu': 4096}  # rows × padded length, of one part of a batch; more are no faster
_TOKENS_OF_ACCELERATORS = 16_384
_CHUNK = 10_000  # texts that are tokenized at one time


class Batch(NamedTuple):
  """Some texts of near lengths.

  Attributes:
    rows: int64, which texts.
    size: rows of the batch, at least as many; equal for batches of one width.
    width: T, at least the length of each.
  """

  rows: np.ndarray
  size: int
  width: int


def tokenized(
  texts: Sequence[str], encode: Callable[[list[str]], Iterable[Sequence[int]]]
) -> Sequences:
  """The ids of all texts, flat; `encode` gives those of a list of texts."""
  chunks = []
  with tqdm.tqdm(total=len(texts), desc='tokenizing', unit=' texts') as progress:
    for first in range(0, len(texts), _CHUNK):
      chunk = list(texts[first : first + _CHUNK])
      chunks.append(Sequences.from_lists(list(encode(chunk))))
      progress.update(len(chunk))
  if not chunks:
    return Sequences.from_lists([])
  lengths = np.concatenate([chunk.lengths for chunk in chunks])
  values = np.concatenate([chunk.values for chunk in chunks])
  return Sequences(values, np.concatenate([[0], np.cumsum(lengths)]))


def widths(lengths: np.ndarray, price: float) -> np.ndarray:
  """The widths, ascending, that texts of these lengths are best padded to.

  Exact among multiples of 4 and the greatest length: the least sum of padded tokens and the price of the
  widths, by dynamic programming over their number.

  Args:
    lengths: int, of each text.
    price: of one width, in tokens: each is compiled once.
  """
  rounded = np.minimum(-(-lengths // 4) * 4, lengths.max())
  candidates, counts = np.unique(rounded, return_counts=True)
  n = len(candidates)
  texts_before = np.concatenate([[0], np.cumsum(counts)])
  # cost[i, j]: tokens of the texts of candidates i … j - 1, all padded to the last of these
  cost = np.full((n + 1, n + 1), np.inf)
  for j in range(1, n + 1):
    cost[:j, j] = price + candidates[j - 1] * (texts_before[j] - texts_before[:j])
  best_J, previous, totals = cost[0], [], [cost[0, n]]  # of one width, then of one more each time
  for _ in range(min(n, _MAX_SHAPES) - 1):
    costs = best_J[:, None] + cost
    previous.append(costs.argmin(axis=0))
    best_J = costs.min(axis=0)
    totals.append(best_J[n])
  ends = [n]
  for choice_J in reversed(previous[: int(np.argmin(totals))]):
    ends.append(int(choice_J[ends[-1]]))
  return candidates[np.array(ends[::-1]) - 1]


def plan(lengths: np.ndarray, tokens: int, shards: int) -> list[Batch]:
  """All texts that are not empty, each in one batch, the longest first.

  A batch takes the longest texts that are left, so only the last one has rows to spare.

  Args:
    lengths: int, of each text.
    tokens: rows × width of a batch, about.
    shards: the size of a batch is a multiple of it.
  """
  order = np.argsort(-lengths, kind='stable')
  order = order[: np.count_nonzero(lengths)]
  if not len(order):
    return []
  shapes = widths(lengths[order], _BATCHES_A_SHAPE * tokens)
  enough = -(-len(order) // shards) * shards
  batches, first = [], 0
  while first < len(order):
    width = int(shapes[np.searchsorted(shapes, lengths[order[first]])])
    size = min(max(tokens // width // shards * shards, shards), enough)
    batches.append(Batch(order[first : first + size], size, width))
    first += size
  return batches


def encode(
  texts: Sequences,
  forward: Callable[[jax.Array, jax.Array], jax.Array],
  width: int,
  mesh: jax.sharding.Mesh,
  parts: epath.Path | None,
) -> np.ndarray:
  """Vectors of all texts.

  Args:
    texts: token ids.
    forward: int32 tokens `[B, T]`, cut over the mesh's batch axes, and lengths `[B]`, at least 1 →
      `[B, D]`.
    width: D.
    mesh: where it runs.
    parts: where finished parts are kept (see `resumable.run`); None: nowhere.

  Returns:
    float32 `[I, D]`; zero rows for texts without a token.
  """
  shards = mesh_lib.batch_shards(mesh)
  tokens = _TOKENS.get(mesh.devices.flat[0].platform, _TOKENS_OF_ACCELERATORS)
  batches = plan(texts.lengths, tokens * shards, shards)

  def start(n: int) -> jax.Array:
    rows, size, length = batches[n]
    taken = texts.take(rows)
    lengths_B = np.ones(size, np.int32)
    lengths_B[: len(rows)] = taken.lengths
    tokens_BT = np.zeros((size, length), np.int32)
    tokens_BT[: len(rows)][np.arange(length) < taken.lengths[:, None]] = taken.values
    batch = mesh_lib.host_rows({'tokens': tokens_BT, 'lengths': lengths_B}, mesh)
    return forward(batch['tokens'], batch['lengths'])

  with jax.set_mesh(mesh):
    return resumable.run([batch.rows for batch in batches], start, len(texts), width, parts)
