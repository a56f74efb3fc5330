"""The gated delta rule: linear attention whose state corrects what it predicts for a key before it writes.

Of one head, with state S_t `[P, E]`, keys k_t and queries q_t `[P]`, values v_t `[E]`, decay a_t and strength b_t:

  u_t = b_t (v_t − (a_t S_{t−1})ᵀ k_t),  S_t = a_t S_{t−1} + k_t u_tᵀ,  o_t = S_tᵀ q_t

`chunked` computes this by matrix products: within a chunk all u_t solve a unit lower triangular system, so that only
the chunks are sequential. `beam_step` keeps the state of the prompt, which
all beams share, and of each beam the pairs (k_t, u_t) that it added; a state for each beam would take P E numbers a
head. Sources: Yang et al., DeltaNet in chunks (arXiv 2406.06484, section 3) and gated DeltaNet (2412.06464, section 3).

Letters: K key heads, G value heads for each key head, P width of keys, E width of values, C tokens of a chunk.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

CHUNK = 64
BLOCK = 8  # triangular blocks that are inverted by their power series


def inverse(lower: jax.Array) -> jax.Array:
  """Returns the inverse of I + L for strictly lower triangular L `[B, n, ..., C, C]`; C is 8 times a power of two.

  Blocks on the diagonal are inverted first; each further step joins two of them:
  [[A, 0], [L, B]]⁻¹ = [[A⁻¹, 0], [−B⁻¹ L A⁻¹, B⁻¹]]. The products are exact to float32, because their errors grow
  along a chunk. Pairs of blocks lie side by side on axis 1, which no mesh axis shards.
  """
  C = lower.shape[-1]
  matmul = functools.partial(jnp.matmul, precision='highest')
  if C <= BLOCK:  # (I + L)⁻¹ = (I − L)(I + L²)(I + L⁴), as L⁸ = 0
    identity = jnp.eye(C, dtype=lower.dtype).reshape((1,) * (lower.ndim - 2) + (C, C))
    result, power = identity - lower, lower
    for _ in range((C - 1).bit_length() - 1):
      power = matmul(power, power)
      result = matmul(result, identity + power)
    return result
  half = C // 2
  blocks = [lower[..., :half, :half], lower[..., half:, half:]]
  first, second = jnp.split(inverse(jnp.concatenate(blocks, axis=1)), 2, axis=1)
  below = -matmul(matmul(second, lower[..., half:, :half]), first)
  above = jnp.concatenate([first, jnp.zeros_like(below)], axis=-1)
  return jnp.concatenate([above, jnp.concatenate([below, second], axis=-1)], axis=-2)


def chunk_of(length: int) -> int:
  """Returns the tokens of a chunk for rows of this length."""
  return min(CHUNK, max(1 << (length - 1).bit_length(), BLOCK))


class _Decays(NamedTuple):
  """Decays of a chunk `[B, n, ...]`; 0 where the two places belong to different segments.

  Attributes:
    between: `[B, n, K, G, C, C]`: of what token j writes until token t reads it, j ≤ t.
    before: `[B, n, K, G, C]`: of the state before the chunk until token t reads it.
    after: `[B, n, K, G, C]`: of what token j writes until the end of the chunk.
    across: `[B, n, K, G]`: of the state across the chunk.
  """

  between: jax.Array
  before: jax.Array
  after: jax.Array
  across: jax.Array


def _decays(log_decay_BnKGC: jax.Array, segments_BnC: jax.Array) -> _Decays:
  C = segments_BnC.shape[-1]
  total = jnp.cumsum(log_decay_BnKGC, axis=-1)
  first, last = segments_BnC[:, :1, 0], segments_BnC[..., -1]
  earlier_Bn = jnp.concatenate([first, last[:, :-1]], axis=1)  # the state before a row is zero
  same = segments_BnC[..., :, None] == segments_BnC[..., None, :]
  causal = same & jnp.tril(jnp.ones((1, 1, C, C), bool))
  between = jnp.where(causal[:, :, None, None], total[..., :, None] - total[..., None, :], -jnp.inf)
  into = (segments_BnC == earlier_Bn[..., None])[:, :, None, None]
  until = (segments_BnC == last[..., None])[:, :, None, None]
  end = total[..., -1:]
  return _Decays(
    jnp.exp(between),
    jnp.exp(total) * into,
    jnp.exp(end - total) * until,
    jnp.exp(end[..., 0]) * (last == earlier_Bn)[:, :, None, None],
  )


def chunked(
  q_BTKP: jax.Array,
  k_BTKP: jax.Array,
  v_BTKGE: jax.Array,
  log_decay_BTKG: jax.Array,
  strength_BTKG: jax.Array,
  segments_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Computes the rule in chunks. The state is zero at the beginning of every segment.

  Args:
    q_BTKP, k_BTKP: float32, normed and scaled.
    v_BTKGE: float32.
    log_decay_BTKG: float32, at most 0; 0 keeps the state.
    strength_BTKG: float32 in [0, 1]; 0 writes nothing.
    segments_BT: int32; a segment is contiguous.

  Returns:
    o_BTKGE, and the state after the row, float32 `[B, K, G, P, E]`.
  """
  B, T, K, G, E = v_BTKGE.shape
  P, C = q_BTKP.shape[-1], chunk_of(T)

  def chunks(x, mode='constant'):
    x = jnp.pad(x, ((0, 0), (0, -T % C), *((0, 0),) * (x.ndim - 2)), mode=mode)
    return x.reshape(B, -1, C, *x.shape[2:])

  q, k = (jnp.einsum('BnCKP->BnKCP', chunks(x)) for x in (q_BTKP, k_BTKP))
  v = jnp.einsum('BnCKGE->BnKGCE', chunks(v_BTKGE))
  log_decay, strength = (
    jnp.einsum('BnCKG->BnKGC', chunks(x)) for x in (log_decay_BTKG, strength_BTKG)
  )
  decays = _decays(log_decay, chunks(segments_BT, 'edge'))
  scores = jnp.einsum('BnKCP,BnKDP->BnKCD', q, k)[:, :, :, None] * decays.between
  overlaps = jnp.einsum('BnKCP,BnKDP->BnKCD', k, k)[:, :, :, None] * decays.between
  solved = inverse(jnp.tril(overlaps * strength[..., None], -1))

  def chunk(state_BKGPE, inputs):
    q, k, v, strength, scores, solved, before, after, across = inputs
    known = jnp.einsum('BKCP,BKGPE->BKGCE', k, state_BKGPE)
    u = solved @ (strength[..., None] * (v - before[..., None] * known))
    read = jnp.einsum('BKCP,BKGPE->BKGCE', q, state_BKGPE)
    o = before[..., None] * read + scores @ u
    written = jnp.einsum('BKCP,BKGCE->BKGPE', k, after[..., None] * u)
    return across[..., None, None] * state_BKGPE + written, o

  inputs = (q, k, v, strength, scores, solved, *decays[1:])
  inputs = tuple(x.swapaxes(0, 1) for x in inputs)
  state, o = jax.lax.scan(chunk, jnp.zeros((B, K, G, P, E), v.dtype), inputs)
  o = jnp.einsum('nBKGCE->BnCKGE', o).reshape(B, -1, K, G, E)
  return o[:, :T], state


class Suffix(NamedTuple):
  """What the tokens of each beam added to the state of the prompt.

  Attributes:
    keys: float32 `[B, M, L, K, P]`.
    updates: float32 `[B, M, L, K, G, E]`, the u_t.
    log_decay: float32 `[B, M, L, K, G]`, summed over the suffix up to each token.
  """

  keys: jax.Array
  updates: jax.Array
  log_decay: jax.Array


def beam_step(
  q_BMKP, k_BMKP, v_BMKGE, log_decay_BMKG, strength_BMKG, state_BKGPE, suffix: Suffix, step
) -> tuple[jax.Array, Suffix]:
  """Computes the rule for one token per beam.

  Args:
    q_BMKP, k_BMKP, v_BMKGE, log_decay_BMKG, strength_BMKG: as of `chunked`, of the token.
    state_BKGPE: state after the prompt.
    suffix: tokens before `step` are read.
    step: position of the token in the suffix.

  Returns:
    o_BMKGE, and the suffix with this token written at `step`.
  """
  before = jnp.take(suffix.log_decay, jnp.maximum(step - 1, 0), axis=2)
  total = log_decay_BMKG + jnp.where(step > 0, before, 0.0)
  at_L = jnp.arange(suffix.keys.shape[2])

  def read(x_BMKP, suffix, is_read_L):
    old = jnp.exp(total)[..., None] * jnp.einsum('BMKP,BKGPE->BMKGE', x_BMKP, state_BKGPE)
    decay = total[:, :, None] - suffix.log_decay
    decay = jnp.exp(jnp.where(is_read_L[None, None, :, None, None], decay, -jnp.inf))
    weights = decay * jnp.einsum('BMKP,BMLKP->BMLK', x_BMKP, suffix.keys)[..., None]
    return old + jnp.einsum('BMLKG,BMLKGE->BMKGE', weights, suffix.updates)

  u = strength_BMKG[..., None] * (v_BMKGE - read(k_BMKP, suffix, at_L < step))
  written = (k_BMKP, u, total)
  suffix = Suffix(*(x.at[:, :, step].set(new) for x, new in zip(suffix, written, strict=True)))
  return read(q_BMKP, suffix, at_L <= step), suffix
