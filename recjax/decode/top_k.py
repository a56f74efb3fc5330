"""The best k of many numbers, without sorting them all."""

import jax
import jax.numpy as jnp

BLOCK = 16  # numbers of a block
_FEW = 16  # up to this k a GPU has a kernel that does not sort


def top_k(x_BX: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns the k largest numbers of each row and their indices; of equal numbers the first, as `jax.lax.top_k` does.

  The k blocks with the largest maxima hold all of them, so only k blocks of 16 numbers are sorted, and the maxima. Proof:
  let blocks be in the order of their maxima, of equal ones the first. If the block of x is not among the first k, each of
  these k has a maximum that is larger than x, or equal to it in an earlier block: k numbers come before x.
  """
  B, X = x_BX.shape
  if k <= _FEW or 4 * k * BLOCK > X:
    return jax.lax.top_k(x_BX, k)
  fill = -X % BLOCK
  padded_BX = jnp.pad(x_BX, ((0, 0), (0, fill)), constant_values=-jnp.inf) if fill else x_BX
  blocks_BGN = padded_BX.reshape(B, -1, BLOCK)
  _, blocks_Bk = jax.lax.top_k(jnp.max(blocks_BGN, axis=-1), k)
  blocks_Bk = jnp.sort(blocks_Bk, axis=1)  # equal numbers stay in the order of their indices
  chosen_BkN = jnp.take_along_axis(blocks_BGN, blocks_Bk[..., None], axis=1)
  best_Bk, at_Bk = jax.lax.top_k(chosen_BkN.reshape(B, -1), k)
  at_block_Bk = jnp.take_along_axis(blocks_Bk, at_Bk // BLOCK, axis=1)
  return best_Bk, at_block_Bk * BLOCK + at_Bk % BLOCK
