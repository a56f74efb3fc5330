"""Attention for training and prefill (`attend`), and for beams that share a prompt (`attend_from_beams`).

`attend` chooses an implementation: a fused kernel (cuDNN or TPU), XLA through
`jax.nn.dot_product_attention`, or the plain path below, which handles every case.
"""

import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.models import splash

log = logging.getLogger(__name__)

MASKED = -1e30  # finite, so that the softmax of a fully masked row is not NaN


def segment_mask(query_segments_BT: jax.Array, key_segments_BS: jax.Array) -> jax.Array:
  """Returns mask_BTS (bool): the keys of the query's segment. Segment 0 is padding and is masked."""
  keys_B1S = key_segments_BS[:, None, :]
  return (query_segments_BT[:, :, None] == keys_B1S) & (keys_B1S > 0)


def attention_mask(
  query_segments_BT: jax.Array,
  key_segments_BS: jax.Array,
  query_positions_BT: jax.Array,
  key_positions_BS: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Computes the causal mask within segments, without windows.

  Returns:
    mask_BTS (bool) and distance_BTS (int32, query position minus key position).
  """
  distance_BTS = query_positions_BT[:, :, None] - key_positions_BS[:, None, :]
  same_BTS = segment_mask(query_segments_BT, key_segments_BS)
  return same_BTS & (distance_BTS >= 0), distance_BTS


def _softmax(
  logits: jax.Array, mask: jax.Array, softcap: float, bias: jax.Array | None
) -> jax.Array:
  """Computes a float32 softmax over the last axis."""
  logits = logits.astype(jnp.float32)
  if softcap:
    logits = jnp.tanh(logits / softcap) * softcap
  if bias is not None:
    logits = logits + bias
  return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)


class PackedCausal(NamedTuple):
  """The mask of packed causal rows in a form that fused kernels take.

  The tokens of a segment are contiguous, so distances are differences of row indices.

  Attributes:
    segments_BT: int32; 0 is padding.
    window: int32 scalar; see `recjax.models.decoder.DecoderConfig.windows`.
    windows: possible values of `window`, static under tracing.
  """

  segments_BT: jax.Array
  window: jax.Array
  windows: tuple[int, ...]


def _platform() -> str:
  """Returns the platform of the current mesh, or of the default devices."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _widest_cudnn_head() -> int:
  """Returns cuDNN's largest head width: 256 from the Hopper generation on, else 128."""
  capability = getattr(jax.devices()[0], 'compute_capability', '0')
  return 256 if float(capability) >= 9 else 128


def _unsupported(path: str, platform: str, q_BTNH, k_BSKH, softcap, bias, packed) -> str:
  """Returns the reason why a path does not apply; empty: it applies."""
  (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
  if path == 'splash':
    if platform != 'tpu':
      return 'it is a TPU kernel'
    if bias is not None or packed is None:
      return 'it computes causal self-attention without a bias'
    return splash.unsupported(B, T, N, K, H)
  if softcap:
    return 'it has no soft-cap for logits'
  if path == 'xla':
    return ''
  if platform not in ('gpu', 'cuda'):
    return 'it is a GPU kernel'
  if bias is not None:
    return 'segments with a bias need an array [B, N, T, S]'
  if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
    return f'it computes in bfloat16 or float16, not in {q_BTNH.dtype}'
  if H % 8 or _widest_cudnn_head() < H:
    return f'the head width {H} is not a multiple of 8 up to {_widest_cudnn_head()}'
  if T % 2 or S % 2:
    return f'the row lengths {T} and {S} are not both even'
  if K % jax.sharding.get_abstract_mesh().shape.get('tensor', 1):
    return f'mesh.tensor does not divide the {K} key heads, which must be sharded like the queries'
  return ''


AUTO = {
  'tpu': ('splash', 'xla'),
  'gpu': ('cudnn', 'xla'),
  'cuda': ('cudnn', 'xla'),
}


@functools.cache
def _log_once(message: str) -> None:
  log.warning(message)


def choose(
  implementation: str,
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  softcap: float = 0.0,
  bias: jax.Array | None = None,
  packed: PackedCausal | None = None,
) -> str:
  """Chooses the path: 'splash', 'cudnn', 'xla' or 'plain'.

  'auto' takes the first path of AUTO that applies. On the CPU that is the plain path, which is the fastest there.
  If a requested path does not apply, the plain path replaces it. A warning, logged once, gives the reason if the
  plain path replaces a requested path or runs on an accelerator.
  """
  if implementation == 'plain':
    return 'plain'
  platform = _platform()
  asked = AUTO.get(platform, ()) if implementation == 'auto' else (implementation,)
  reasons = []
  for path in asked:
    reason = _unsupported(path, platform, q_BTNH, k_BSKH, softcap, bias, packed)
    if not reason:
      return path
    reasons.append(f'{path}: {reason}')
  if reasons:
    _log_once(f'attention takes the plain path on {platform} ({"; ".join(reasons)})')
  return 'plain'


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_BTS: jax.Array,
  softcap: float = 0.0,
  bias: jax.Array | None = None,
  packed: PackedCausal | None = None,
  implementation: str = 'plain',
) -> jax.Array:
  """Computes grouped-query attention, with the softmax in float32.

  Args:
    q_BTNH: queries, already scaled.
    k_BSKH: keys; each key head serves N / K query heads.
    v_BSKH: values.
    mask_BTS: bool, the visible keys; B or T may be 1. The output of a fully masked query is undefined.
    softcap: 0: no soft-cap.
    bias: float32, added to the logits after the soft-cap: `[N, T, S]` or `[B, N, T, S]`, T may be 1.
    packed: the same mask in another form, if it is the mask of packed causal rows; else None.
    implementation: 'auto' or the name of a path; see `choose`.

  Returns:
    x_BTNH, in the dtype of the queries.
  """
  path = choose(implementation, q_BTNH, k_BSKH, softcap, bias, packed)
  if path == 'splash':
    return splash.attend(q_BTNH, k_BSKH, v_BSKH, *packed, softcap=softcap)
  if path == 'plain':
    return _plain(q_BTNH, k_BSKH, v_BSKH, mask_BTS, softcap, bias)
  if bias is not None:
    bias = bias.reshape(-1, *bias.shape[-3:])
  B, T = q_BTNH.shape[:2]
  mask_B1TS = jnp.broadcast_to(mask_BTS[:, None], (B, 1, T, k_BSKH.shape[1]))
  return jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, bias, mask_B1TS, scale=1.0, implementation=path
  )


# Like the fused kernels, logits stay in float32 until the softmax.
_float32_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _plain(q_BTNH, k_BSKH, v_BSKH, mask_BTS, softcap, bias):
  """Computes attention by two matrix products and a softmax."""
  B, T, N, H = q_BTNH.shape
  K = k_BSKH.shape[2]
  q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
  logits_BKGTS = _float32_einsum('BTKGH,BSKH->BKGTS', q_BTKGH, k_BSKH)
  if bias is not None:
    bias = bias.reshape(-1, K, N // K, *bias.shape[-2:])
  p_BKGTS = _softmax(logits_BKGTS, mask_BTS[:, None, None], softcap, bias).astype(q_BTNH.dtype)
  return jnp.einsum('BKGTS,BSKH->BTKGH', p_BKGTS, v_BSKH).reshape(B, T, N, H)


def _to_kept(q_BTKGH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
  """Returns the logits `[B, K, T, G, S]` of queries and kept keys, as one matrix product a key head."""
  B, T, K, G, H = q_BTKGH.shape
  q_BKXH = q_BTKGH.swapaxes(1, 2).reshape(B, K, T * G, H)
  logits_BKXS = _float32_einsum('BKXH,BKSH->BKXS', q_BKXH, k_BKSH)
  return logits_BKXS.reshape(B, K, T, G, -1)


def _of_kept(p_BKTGS: jax.Array, v_BKSH: jax.Array) -> jax.Array:
  """Returns the attended values `[B, T, K, G, H]` of kept values."""
  B, K, T, G, S = p_BKTGS.shape
  x_BKXH = jnp.einsum('BKXS,BKSH->BKXH', p_BKTGS.reshape(B, K, T * G, S), v_BKSH)
  return x_BKXH.reshape(B, K, T, G, -1).swapaxes(1, 2)


def attend_to_kept(
  q_BTNH: jax.Array,
  kv: tuple[jax.Array, jax.Array],
  mask_BTS: jax.Array,
  softcap: float = 0.0,
) -> jax.Array:
  """Attends to kept keys and values `[B, K, S, H]`; see `attend` for the other arguments."""
  B, T, N, H = q_BTNH.shape
  K = kv[0].shape[1]
  logits = _to_kept(q_BTNH.reshape(B, T, K, N // K, H), kv[0])
  p = _softmax(logits, mask_BTS[:, None, :, None], softcap, None).astype(q_BTNH.dtype)
  return _of_kept(p, kv[1]).reshape(B, T, N, H)


def attend_from_beams(
  q_BMNH: jax.Array,
  prompt_kv: tuple[jax.Array, jax.Array],
  suffix_kv: tuple[jax.Array, jax.Array],
  prompt_mask_BS: jax.Array,
  suffix_mask_L: jax.Array,
  softcap: float = 0.0,
  bias_NS: jax.Array | None = None,
) -> jax.Array:
  """Attends from one query per beam to the shared prompt and the beam's own suffix.

  Args:
    q_BMNH: scaled queries, one per beam.
    prompt_kv: keys and values `[B, K, S, H]`; not copied for the beams.
    suffix_kv: keys and values `[B, M, L, K, H]`.
    prompt_mask_BS: the visible prompt positions.
    suffix_mask_L: the visible suffix positions, already written.
    softcap: 0: no soft-cap.
    bias_NS: float32 `[N, S + L]`, added to the logits after the soft-cap; the same for all beams.

  Returns:
    x_BMNH.
  """
  k_BMLKH, v_BMLKH = suffix_kv
  B, M, N, H = q_BMNH.shape
  K, S = prompt_kv[0].shape[1:3]
  q_BMKGH = q_BMNH.reshape(B, M, K, N // K, H)
  logits = jnp.concatenate(
    [
      _to_kept(q_BMKGH, prompt_kv[0]),
      _float32_einsum('BMKGH,BMLKH->BKMGL', q_BMKGH, k_BMLKH),
    ],
    axis=-1,
  )
  L = k_BMLKH.shape[2]
  mask = jnp.concatenate([prompt_mask_BS, jnp.broadcast_to(suffix_mask_L[None], (B, L))], axis=1)
  bias = None if bias_NS is None else bias_NS.reshape(1, K, 1, N // K, S + L)
  p = _softmax(logits, mask[:, None, None, None], softcap, bias).astype(q_BMNH.dtype)
  x_BMKGH = _of_kept(p[..., :S], prompt_kv[1]) + jnp.einsum(
    'BKMGL,BMLKH->BMKGH', p[..., S:], v_BMLKH
  )
  return x_BMKGH.reshape(B, M, N, H)
