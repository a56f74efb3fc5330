"""Runs a model on token ids, in batches of similar lengths and few shapes, sharded over the mesh."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from etils import epath
import jax
import numpy as np

from data_prep.encoders import resumable
from recjax.data.sequences import Sequences, offsets_of
from recjax.runtime import logs
from recjax.sharding import mesh as mesh_lib

_MAX_SHAPES = 16
_COMPILATION = 1.5  # cost of compiling a shape, in batches (MiniLM on a CPU)
_TOKENS = {'cpu': 4096}  # rows × padded length per shard of a batch; larger batches are not faster
_TOKENS_OF_ACCELERATORS = 16_384
_CHUNK = 10_000  # texts tokenized at a time


class Batch(NamedTuple):
  """Texts of similar lengths.

  Attributes:
    rows: int64, indices of the texts.
    size: padded number of rows, the same for all batches of one width.
    width: T, the padded length.
  """

  rows: np.ndarray
  size: int
  width: int


def tokenized(
  texts: Sequence[str], encode: Callable[[list[str]], Iterable[Sequence[int]]]
) -> Sequences:
  """Tokenizes texts with `encode`, which maps a list of texts to their ids, and returns the ids."""
  chunks = []
  with logs.progress(total=len(texts), desc='tokenizing', unit=' texts') as progress:
    for first in range(0, len(texts), _CHUNK):
      chunk = list(texts[first : first + _CHUNK])
      chunks.append(Sequences.from_lists(list(encode(chunk))))
      progress.update(len(chunk))
  if not chunks:
    return Sequences.from_lists([])
  lengths = np.concatenate([chunk.lengths for chunk in chunks])
  values = np.concatenate([chunk.values for chunk in chunks])
  return Sequences(values, offsets_of(lengths))


def widths(lengths: np.ndarray, compilation: float) -> np.ndarray:
  """Returns the optimal padded lengths of texts, ascending.

  The widths are multiples of 4, or the greatest length. They minimise the number of padded tokens plus the cost of
  compilation, by dynamic programming over the number of widths.

  Args:
    lengths: int, length of each text.
    compilation: cost of compiling one width, in tokens.
  """
  rounded = np.minimum(-(-lengths // 4) * 4, lengths.max())
  candidates, counts = np.unique(rounded, return_counts=True)
  n = len(candidates)
  texts_before = offsets_of(counts)
  # cost[i, j]: padded tokens of the texts of candidates i … j - 1, with candidate j - 1 as the width
  cost = np.full((n + 1, n + 1), np.inf)
  for j in range(1, n + 1):
    cost[:j, j] = compilation + candidates[j - 1] * (texts_before[j] - texts_before[:j])
  best_J, previous, totals = cost[0], [], [cost[0, n]]  # for one width; each iteration adds one
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
  """Assigns every non-empty text to a batch, longest texts first.

  A batch takes the longest remaining texts, so only the last batch has padding rows.

  Args:
    lengths: int, length of each text.
    tokens: approximate rows × width of a batch.
    shards: the size of every batch is a multiple of this number.
  """
  order = np.argsort(-lengths, kind='stable')
  order = order[: np.count_nonzero(lengths)]
  if not len(order):
    return []
  shapes = widths(lengths[order], _COMPILATION * tokens)
  max_size = -(-len(order) // shards) * shards
  batches, first = [], 0
  while first < len(order):
    width = int(shapes[np.searchsorted(shapes, lengths[order[first]])])
    size = min(max(tokens // width // shards * shards, shards), max_size)
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
  """Computes the vectors of texts.

  Args:
    texts: token ids of the I texts.
    forward: maps int32 tokens `[B, T]`, sharded over the mesh's batch axes, and lengths `[B]`, at least 1, to
      vectors `[B, D]`.
    width: D, the width of the vectors.
    mesh: the devices.
    parts: folder of finished parts (see `resumable.run`); None: store none.

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
