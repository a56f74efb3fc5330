"""Gated DeltaNet, the linear-attention layer of Qwen 3.5: projections, causal convolution, delta rule, gated norm.

Source: Yang et al., arXiv 2412.06464 (figure 1 and section 3.4), with fewer key heads than value heads. Letters as in
`recjax.models.delta_rule`, and X = 2 P + G E: query, key and values of a key head, side by side.
"""

from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from recjax.models import delta_rule
from recjax.models.layers import Linear, RMSNorm
from recjax.sharding.mesh import constrain

_EPS = 1e-6  # of the norm of queries and keys


class Heads(NamedTuple):
  """The shape of the layer; published values in brackets.

  Attributes:
    key_heads: K [16].
    groups: value heads for each key head, G [1, 2 or 3].
    key_width: P [128].
    value_width: E [128].
    taps: tokens that the convolution sees [4].
  """

  key_heads: int
  groups: int
  key_width: int
  value_width: int
  taps: int

  @property
  def channels(self) -> int:
    """X."""
    return 2 * self.key_width + self.groups * self.value_width


class BeamState(NamedTuple):
  """Cache of the layer.

  Attributes:
    state: float32 `[B, K, G, P, E]` after the prompt; shared by all beams.
    window: inputs of the convolution before the next token, `[B, M, taps - 1, K, X]`.
    suffix: what the tokens of each beam added to the state.
  """

  state: jax.Array
  window: jax.Array
  suffix: delta_rule.Suffix

  @classmethod
  def of_prompts(
    cls, heads: Heads, state, inputs_BSKX, lengths_B, beams: int, suffix_length: int
  ) -> 'BeamState':
    """Returns the cache after prompts.

    Args:
      heads: shape of the layer.
      state, inputs_BSKX: as `DeltaNet` returns them.
      lengths_B: int32, tokens of each prompt.
      beams: M.
      suffix_length: largest number of tokens that a beam appends.
    """
    K, G, P, E, taps = heads
    B, X = len(lengths_B), heads.channels
    at = lengths_B[:, None] - jnp.arange(taps - 1, 0, -1)[None]
    window = jnp.take_along_axis(inputs_BSKX, jnp.maximum(at, 0)[..., None, None], axis=1)
    window = jnp.where((at >= 0)[..., None, None], window, 0)
    window = jnp.broadcast_to(window[:, None], (B, beams, taps - 1, K, X))
    shapes = ((P,), (G, E), (G,))
    suffix = (jnp.zeros((B, beams, suffix_length, K, *last), jnp.float32) for last in shapes)
    return cls(state, window, delta_rule.Suffix(*suffix))


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _EPS)


class DeltaNet(nnx.Module):
  """The layer without norm and residual connection."""

  def __init__(self, width: int, heads: Heads, eps: float, rngs: nnx.Rngs):
    D, K, G, X = width, heads.key_heads, heads.groups, heads.channels
    values = G * heads.value_width
    self.heads = heads
    self.qkv = Linear('...D,DKX->...KX', (D, K, X), D, rngs)
    self.gate = Linear('...D,DKX->...KX', (D, K, values), D, rngs)
    self.strength = Linear('...D,DKG->...KG', (D, K, G), D, rngs)
    self.decay = Linear('...D,DKG->...KG', (D, K, G), D, rngs, (K, G))
    self.decay.bias = nnx.Param(jnp.ones((K, G)))
    rates = jax.random.uniform(rngs.params(), (K, G), minval=0.01, maxval=16.0)
    self.log_rate = nnx.Param(jnp.log(rates))
    init = jax.nn.initializers.truncated_normal(heads.taps**-0.5)
    self.taps = nnx.Param(init(rngs.params(), (K, X, heads.taps), jnp.float32))
    self.norm = RMSNorm(heads.value_width, plus_one=False, eps=eps)
    self.out = Linear('...KX,KXD->...D', (K, values, D), K * values, rngs)

  def _inputs(self, mixed, x):
    """Returns the arguments of the delta rule for `mixed` `[..., K, X]` after the convolution."""
    K, G, P, E, _ = self.heads
    mixed = jax.nn.silu(mixed).astype(jnp.float32)
    q, k, v = mixed[..., :P], mixed[..., P : 2 * P], mixed[..., 2 * P :]
    x = x.astype(jnp.float32)
    rate = jnp.exp(self.log_rate[...]).reshape((1,) * (x.ndim - 1) + (K, G))
    log_decay = -rate * jax.nn.softplus(self.decay(x))
    strength = jax.nn.sigmoid(self.strength(x))
    return _unit(q) * P**-0.5, _unit(k), v.reshape(*v.shape[:-1], G, E), log_decay, strength

  def _output(self, o, x):
    """Returns the branch for what the rule read, `[..., K, G, E]`."""
    o = self.norm(o)
    gate = jax.nn.silu(self.gate(x).astype(jnp.float32))
    return self.out((o.reshape(gate.shape) * gate).astype(x.dtype))

  def _tap(self, i: int, axes: int) -> jax.Array:
    """Returns the weights of the token i places before, for inputs with `axes` axes."""
    K, X, W = self.taps.shape
    return self.taps[..., W - 1 - i].reshape((1,) * (axes - 2) + (K, X))

  def __call__(self, x_BTD, segments_BT, real_BT):
    """Returns the branch y_BTD, the state after the row and the inputs of the convolution `[B, T, K, X]`.

    Args:
      x_BTD: normed residual stream.
      segments_BT: int32; convolution and state begin anew at every segment.
      real_BT: bool; other tokens leave the state as it is.
    """
    inputs = constrain(self.qkv(x_BTD), 'heads')
    mixed = inputs * self._tap(0, 4).astype(inputs.dtype)
    T = inputs.shape[1]
    for i in range(1, self.heads.taps):
      before = jnp.pad(inputs, ((0, 0), (i, 0), (0, 0), (0, 0)))[:, :T]
      same = jnp.pad(segments_BT, ((0, 0), (i, 0)), constant_values=-1)[:, :T] == segments_BT
      before = jnp.where(same[..., None, None], before, 0)
      mixed = mixed + before * self._tap(i, 4).astype(inputs.dtype)
    q, k, v, log_decay, strength = self._inputs(mixed, x_BTD)
    real = real_BT[..., None, None]
    o, state = delta_rule.chunked(
      q, k, v, jnp.where(real, log_decay, 0.0), jnp.where(real, strength, 0.0), segments_BT
    )
    return self._output(o, x_BTD), state, inputs

  def beam_step(self, x_BMD, cache: BeamState, step) -> tuple[jax.Array, BeamState]:
    """Computes one token per beam. Returns the branch y_BMD and the cache after it."""
    window = jnp.concatenate([cache.window, self.qkv(x_BMD)[:, :, None]], axis=2)
    W = self.heads.taps
    mixed = sum(window[:, :, W - 1 - i] * self._tap(i, 4).astype(window.dtype) for i in range(W))
    o, suffix = delta_rule.beam_step(*self._inputs(mixed, x_BMD), cache.state, cache.suffix, step)
    return self._output(o, x_BMD), BeamState(cache.state, window[:, :, 1:], suffix)
