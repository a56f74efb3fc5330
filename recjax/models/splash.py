"""JAX's fused TPU kernel (splash attention) for packed causal rows."""

import functools
import math

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from recjax.sharding.mesh import BATCH

LANES = 128  # block sizes are multiples of this
BLOCKS = (512, 256, 128)  # block sizes, the fastest first


def unsupported(B: int, T: int, N: int, K: int, H: int) -> str:
  """Returns the reason why the kernel does not apply under the current mesh; empty: it applies."""
  if T % LANES:
    return f'rows of {T} tokens are not a multiple of {LANES}'
  if H % 64:
    return f'the head width {H} is not a multiple of 64'
  mesh = jax.sharding.get_abstract_mesh()
  shards = math.prod(mesh.shape.get(axis, 1) for axis in BATCH)
  if B % shards:
    return f'{B} rows do not divide over {shards} devices'
  tensor = mesh.shape.get('tensor', 1)
  if N % tensor or K % tensor:
    return f'{N} and {K} heads do not divide over {tensor} devices'
  return ''


def _kernel(T: int, heads: int, window: int, softcap: float, interpret: bool):
  """Builds the kernel for rows of T tokens and one window (0: global)."""
  if window:
    mask = masks.LocalMask((T, T), (window - 1, 0), 0)
  else:
    mask = masks.CausalMask((T, T))
  block = next(size for size in BLOCKS if T % size == 0)
  return kernels.make_splash_mha(
    masks.MultiHeadMask([mask] * heads),
    block_sizes=kernels.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap or None,
    interpret=interpret,
  )


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  segments_BT: jax.Array,
  window: jax.Array,
  windows: tuple[int, ...],
  softcap: float = 0.0,
  interpret: bool = False,
) -> jax.Array:
  """Computes causal attention within the segments of packed rows.

  Args:
    q_BTNH: queries, already scaled.
    k_BSKH: keys; each key head serves N / K query heads; S is T.
    v_BSKH: values.
    segments_BT: int32; 0 is padding, where the output is undefined.
    window: int32 scalar, one of `windows`.
    windows: possible windows; a kernel is compiled for each. 0: global. Otherwise keys at distances below the
      window are visible.
    softcap: soft-cap of the logits; 0: no soft-cap.
    interpret: runs the kernel in the interpreter, for tests without a TPU.

  Returns:
    x_BTNH, in the dtype of the queries.
  """
  T = q_BTNH.shape[1]
  choices = tuple(sorted(set(windows)))

  def local(q_BTNH, k_BSKH, v_BSKH, segments_BT, index):
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))

    def run(choice, q, k, v, segments_BT):
      kernel = _kernel(T, q.shape[1], choice, softcap, interpret)
      return jax.vmap(kernel)(q, k, v, kernels.SegmentIds(segments_BT, segments_BT))

    branches = [functools.partial(run, choice) for choice in choices]
    x = jax.lax.switch(index, branches, q, k, v, segments_BT)
    return jnp.swapaxes(x, 1, 2).astype(q_BTNH.dtype)

  index = jnp.argmax(jnp.asarray(choices, jnp.int32) == window)
  arguments = (q_BTNH, k_BSKH, v_BSKH, segments_BT, index)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(*arguments)
  # The kernel runs on one device: each device computes its own rows and heads.
  heads = P(BATCH, None, 'tensor', None)
  specs = (heads, heads, heads, P(BATCH), P())
  return jax.shard_map(local, in_specs=specs, out_specs=heads, check_vma=False)(*arguments)
