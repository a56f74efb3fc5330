"""SA-Init: initial embedding rows of SID tokens in a pretrained model."""

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
  """Returns the text pieces of every SID token's keywords, as flat arrays.

  Args:
    names: the SID tokens in the order of their rows.
    keywords: each token's keywords. A token may have none.
    encode: turns a text into ids, without BOS or EOS.

  Returns:
    int32 `[n]` piece ids, and int32 `[n]` each piece's row.

  Raises:
    ValueError: no token has keywords, so the keywords belong to another code space.
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
  """Computes SID rows as means of the text rows of their keywords' pieces (SA-Init of TS-Rec, arXiv 2602.22632).

  The mean is over all pieces of all keywords. It is rescaled to the mean norm of the table's rows. A row
  without pieces (an unused code, or a code of a de-duplication level) becomes the mean row of the table, with
  the same norm.

  Args:
    text_VD: float32, the pretrained rows of the text pieces without padding, from the input table or an
      untied output table.
    pieces_N: int32, row of each keyword piece in `text_VD`.
    rows_N: int32, SID row of each piece, ascending.
    num_rows: number of SID rows.

  Returns:
    float32 `[num_rows, D]`.
  """
  norm = jnp.linalg.norm(text_VD, axis=1).mean()
  sums_RD = jax.ops.segment_sum(text_VD[pieces_N], rows_N, num_rows, indices_are_sorted=True)
  counts_R1 = jnp.bincount(rows_N, length=num_rows)[:, None]
  mean_1D = text_VD.mean(axis=0)[None, :]
  means_RD = jnp.where(counts_R1 > 0, sums_RD / jnp.maximum(counts_R1, 1), mean_1D)
  return means_RD * (norm / jnp.maximum(jnp.linalg.norm(means_RD, axis=1), _MIN_NORM)[:, None])
