"""Rewards of the items of a group, and their advantages over the group.

Sources: exact match and the rank of the negatives are MiniOneRec's (arXiv 2510.24431). The teacher's score is in its
code as well; its normalisation here, and the share of leading codes, are ours.
"""

import jax
import jax.numpy as jnp

from recjax.schema.grpo import Rewards

EPSILON = 1e-4  # added to the standard deviation, as in MiniOneRec


def depths(codes_BML: jax.Array, target_BL: jax.Array) -> jax.Array:
  """Returns the number of leading codes that each item shares with the target, int32 `[B, M]`."""
  equal_BML = codes_BML == target_BL[:, None]
  return jnp.sum(jnp.cumprod(equal_BML.astype(jnp.int32), axis=-1), axis=-1)


def parts(
  depths_BM: jax.Array,
  ranks_BM: jax.Array,
  is_real_BM: jax.Array,
  levels: int,
  teacher_BM: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Returns the rewards by the name of their weight, float32 `[B, M]` each; 0 where an item is missing.

  Args:
    depths_BM: of `depths`; L is a match.
    ranks_BM: int32, the rank of each item in its group, from 0.
    is_real_BM: bool, False where an item is missing.
    levels: L.
    teacher_BM: float32, the teacher's log-probability of each item. None: there is no teacher.
  """
  M = depths_BM.shape[1]
  is_hit_BM = is_real_BM & (depths_BM == levels)
  has_hit_B1 = jnp.any(is_hit_BM, axis=1, keepdims=True)
  share_M = 1 / jnp.log2(jnp.arange(M) + 2.0)
  share_M /= jnp.sum(share_M)
  found = {
    'exact': is_hit_BM.astype(jnp.float32),
    'rank': jnp.where(has_hit_B1 & ~is_hit_BM, -share_M[ranks_BM], 0.0),
    'prefix_depth': depths_BM / levels,
  }
  if teacher_BM is not None:
    found['teacher'] = jax.nn.softmax(jnp.where(is_real_BM, teacher_BM, -jnp.inf), axis=1)
  return {name: jnp.where(is_real_BM, values, 0.0) for name, values in found.items()}


def total(found: dict[str, jax.Array], weights: Rewards) -> jax.Array:
  """Returns the weighted sum of `parts`, float32 `[B, M]`."""
  return sum(getattr(weights, name) * values for name, values in found.items())


def advantages(rewards_BM: jax.Array, is_real_BM: jax.Array, scale_by_std: bool) -> jax.Array:
  """Returns (reward − mean) / (standard deviation + EPSILON) within each group, float32 `[B, M]`.

  A group is never split over devices. Exactly 0 where an item is missing and where all rewards of a group are equal.
  The standard deviation divides by the number of items less one.

  Args:
    rewards_BM: float32.
    is_real_BM: bool, False where an item is missing.
    scale_by_std: whether to divide.
  """
  real_BM = is_real_BM.astype(jnp.float32)
  count_B1 = jnp.maximum(jnp.sum(real_BM, axis=1, keepdims=True), 1.0)
  mean_B1 = jnp.sum(rewards_BM * real_BM, axis=1, keepdims=True) / count_B1
  centred_BM = jnp.where(is_real_BM, rewards_BM - mean_B1, 0.0)
  if scale_by_std:
    squares_B1 = jnp.sum(centred_BM**2, axis=1, keepdims=True)
    centred_BM /= jnp.sqrt(squares_B1 / jnp.maximum(count_B1 - 1, 1.0)) + EPSILON
  most_B1 = jnp.max(jnp.where(is_real_BM, rewards_BM, -jnp.inf), axis=1, keepdims=True)
  least_B1 = jnp.min(jnp.where(is_real_BM, rewards_BM, jnp.inf), axis=1, keepdims=True)
  return jnp.where(most_B1 > least_B1, centred_BM, 0.0)
