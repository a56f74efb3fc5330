"""Attention behind one function for training and prefill, and one for beams that share a prompt."""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row that may attend to nothing stays finite


def segment_mask(query_segments_BT: jax.Array, key_segments_BS: jax.Array) -> jax.Array:
  """mask_BTS (bool): keys of the query's own segment. Segment 0 is padding: nothing attends to it."""
  keys_B1S = key_segments_BS[:, None, :]
  return (query_segments_BT[:, :, None] == keys_B1S) & (keys_B1S > 0)


def attention_mask(
  query_segments_BT: jax.Array,
  key_segments_BS: jax.Array,
  query_positions_BT: jax.Array,
  key_positions_BS: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Which keys a causal query of the same segment may see, before any window.

  Returns:
    mask_BTS (bool) and distance_BTS (int32, query position minus key position).
  """
  distance_BTS = query_positions_BT[:, :, None] - key_positions_BS[:, None, :]
  same_BTS = segment_mask(query_segments_BT, key_segments_BS)
  return same_BTS & (distance_BTS >= 0), distance_BTS


def _softmax(
  logits: jax.Array, mask: jax.Array, softcap: float, bias: jax.Array | None
) -> jax.Array:
  """float32 softmax over the last axis; a bias comes with N where the logits have K, G."""
  logits = logits.astype(jnp.float32)
  if softcap:
    logits = jnp.tanh(logits / softcap) * softcap
  if bias is not None:
    logits = logits + bias.reshape(-1, *logits.shape[1:3], *bias.shape[-2:])
  return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_BTS: jax.Array,
  softcap: float = 0.0,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Grouped-query attention; queries come scaled. Softmax in float32.

  Args:
    q_BTNH: queries.
    k_BSKH: keys, each for N / K heads.
    v_BSKH: values.
    mask_BTS: bool, the keys that may be seen; B or T may be 1.
    softcap: 0 for none.
    bias: float32, added to the logits after the soft-cap: `[N, T, S]` or `[B, N, T, S]`, T may be 1.

  Returns:
    x_BTNH, in the type of the queries.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BSKH.shape[2]
  q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
  logits_BKGTS = jnp.einsum('BTKGH,BSKH->BKGTS', q_BTKGH, k_BSKH)
  p_BKGTS = _softmax(logits_BKGTS, mask_BTS[:, None, None], softcap, bias).astype(q_BTNH.dtype)
  return jnp.einsum('BKGTS,BSKH->BTKGH', p_BKGTS, v_BSKH).reshape(B, T, N, H)


def attend_from_beams(
  q_BMNH: jax.Array,
  prompt_kv: tuple[jax.Array, jax.Array],
  suffix_kv: tuple[jax.Array, jax.Array],
  prompt_mask_BS: jax.Array,
  suffix_mask_L: jax.Array,
  softcap: float = 0.0,
  bias_NS: jax.Array | None = None,
) -> jax.Array:
  """One query a beam, over the prompt that all beams share and the beam's own suffix.

  Args:
    q_BMNH: scaled queries, one a beam.
    prompt_kv: keys and values `[B, S, K, H]`; not copied for the beams.
    suffix_kv: keys and values `[B, M, L, K, H]`.
    prompt_mask_BS: the prompt positions that may be seen.
    suffix_mask_L: the suffix positions that were written and may be seen.
    softcap: 0 for none.
    bias_NS: float32 `[N, S + L]`, added to the logits after the soft-cap; the same for all beams.

  Returns:
    x_BMNH.
  """
  (k_BSKH, v_BSKH), (k_BMLKH, v_BMLKH) = prompt_kv, suffix_kv
  B, M, N, H = q_BMNH.shape
  S, K = k_BSKH.shape[1:3]
  q_BMKGH = q_BMNH.reshape(B, M, K, N // K, H)
  logits = jnp.concatenate(
    [
      jnp.einsum('BMKGH,BSKH->BKGMS', q_BMKGH, k_BSKH),
      jnp.einsum('BMKGH,BMLKH->BKGML', q_BMKGH, k_BMLKH),
    ],
    axis=-1,
  )
  L = k_BMLKH.shape[2]
  mask = jnp.concatenate([prompt_mask_BS, jnp.broadcast_to(suffix_mask_L[None], (B, L))], axis=1)
  bias = None if bias_NS is None else bias_NS[:, None]
  p = _softmax(logits, mask[:, None, None, None], softcap, bias).astype(q_BMNH.dtype)
  x_BMKGH = jnp.einsum('BKGMS,BSKH->BMKGH', p[..., :S], v_BSKH) + jnp.einsum(
    'BKGML,BMLKH->BMKGH', p[..., S:], v_BMLKH
  )
  return x_BMKGH.reshape(B, M, N, H)
