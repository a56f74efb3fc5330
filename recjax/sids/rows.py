"""SA-Init: how the rows of SID codes begin in a pretrained table."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

_MIN_NORM = 1e-6


def keyword_pieces(
  names: Sequence[str],
  keywords: Mapping[str, Sequence[str]],
  encode: Callable[[str], list[int]],
) -> tuple[np.ndarray, np.ndarray]:
  """The text pieces of every token's keywords, flat.

  Args:
    names: the SID tokens in the order of their rows.
    keywords: of each token; one may have none.
    encode: a text to ids, without BOS or EOS.

  Returns:
    int32 `[n]` piece ids, and int32 `[n]` the row that each belongs to.

  Raises:
    ValueError: no token has keywords: the names are of another code space.
  """
  if not any(keywords.get(name) for name in names):
    raise ValueError(
      f'the keywords must be of SID tokens such as {names[0]!r}; the file has '
      f'{", ".join(sorted(keywords)[:3]) or "none"}. Set --config.model.sid_keywords'
    )
  pieces = [encode(' '.join(keywords.get(name, ()))) for name in names]
  rows = np.repeat(np.arange(len(names), dtype=np.int32), [len(ids) for ids in pieces])
  return np.array([token for ids in pieces for token in ids], np.int32), rows


def semantic_rows(
  text_VD: jax.Array, pieces_N: jax.Array, rows_N: jax.Array, num_rows: int
) -> jax.Array:
  """SA-Init (TS-Rec, arXiv 2602.22632): a SID row is the mean of the rows of its keywords' pieces.

  The mean runs over all pieces of all keywords, and is rescaled to the mean norm of the table's rows.
  A row without pieces (of an unused code, or of a de-duplication level) becomes the mean row of the
  table, rescaled alike.

  Args:
    text_VD: float32, the pretrained rows of the text pieces (of the input or of an untied output),
      padding left out.
    pieces_N: int32, ids of `text_VD`.
    rows_N: int32, the row that each piece belongs to, ascending.
    num_rows: rows to make.

  Returns:
    float32 `[num_rows, D]`.
  """
  norm = jnp.linalg.norm(text_VD, axis=1).mean()
  sums_RD = jax.ops.segment_sum(text_VD[pieces_N], rows_N, num_rows, indices_are_sorted=True)
  counts_R1 = jnp.bincount(rows_N, length=num_rows)[:, None]
  mean_1D = text_VD.mean(axis=0)[None, :]
  means_RD = jnp.where(counts_R1 > 0, sums_RD / jnp.maximum(counts_R1, 1), mean_1D)
  return means_RD * (norm / jnp.maximum(jnp.linalg.norm(means_RD, axis=1), _MIN_NORM)[:, None])
