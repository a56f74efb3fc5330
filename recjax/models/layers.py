"""Layers that all backbones share: projections, norm, feed-forward, rotary positions, dropout, layer scan."""

import dataclasses
import functools
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'silu': jax.nn.silu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
  """Settings of a backbone's computation, named as in `recjax.schema.model.Model`.

  Attributes:
    dropout: rate on the residual branches and the embedding.
    compute_dtype: dtype of activations; parameters stay float32.
    remat: 'none', or 'full': the backward pass recomputes each layer.
    scan_unroll: layers per step of the scan over layers.
    attention: 'auto' or the name of a path; see `recjax.models.attention.choose`.
  """

  dropout: float = 0.0
  compute_dtype: str = 'float32'
  remat: str = 'none'
  scan_unroll: int = 1
  attention: str = 'auto'

  def scan(self, layers: nnx.Module, body, x: jax.Array, *scanned: Any) -> tuple[jax.Array, Any]:
    """Runs `body(block, x, *slices of scanned)` over stacked layers; see `jax.lax.scan`."""
    graph, weights = nnx.split(layers)

    def layer(x, inputs):
      return body(nnx.merge(graph, inputs[0]), x, *inputs[1:])

    unroll = self.scan_unroll
    if self.remat == 'full':
      layer = jax.checkpoint(layer, prevent_cse=False)
      unroll = 1  # in an unrolled loop XLA recomputes early, which saves no memory
    return jax.lax.scan(layer, x, (weights, *scanned), unroll=unroll)


class Linear(nnx.Module):
  """An einsum with a float32 kernel, computed in the dtype of its input.

  Attributes:
    adapter: matrices `[inputs, r]` and `[r, outputs]` set by `recjax.models.lora.adapted`; None: no adapter.
    kernel_scale: float32 `[outputs]` set by `recjax.models.int8.merge`, the scales of an integer kernel; None: the
      kernel holds floats.

  Args:
    spec: such as 'BTD,DNH->BTNH'.
    shape: shape of the kernel.
    fan_in: number of inputs per output; the kernel is initialised with std 1/sqrt(fan_in).
    rngs: source of the initial values.
    bias_shape: shape of the bias, which is broadcast against the output's last axes; None: no bias.
  """

  adapter: nnx.List | None = None
  kernel_scale: nnx.Param | None = None

  def __init__(self, spec, shape, fan_in, rngs: nnx.Rngs, bias_shape=None):
    init = jax.nn.initializers.truncated_normal(fan_in**-0.5)
    self.spec = spec
    self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(bias_shape)) if bias_shape is not None else None

  def __call__(self, x: jax.Array) -> jax.Array:
    # A 2-D matrix product: with several batch axes, the backward pass takes twice as long on XLA:CPU.
    spec_in, spec_out = self.spec.split('->')
    inputs = len(spec_in.split(',')[0].removeprefix('...'))
    outputs = len(spec_out.removeprefix('...'))
    kernel = self.kernel[...].astype(x.dtype)
    summed, shape = kernel.shape[:inputs], kernel.shape[inputs:]
    x_flat = x.reshape(-1, math.prod(summed))
    y = x_flat @ kernel.reshape(math.prod(summed), math.prod(shape))
    if self.kernel_scale is not None:
      y = (y.astype(jnp.float32) * self.kernel_scale[...].reshape(1, -1)).astype(x.dtype)
    if self.adapter is not None:
      a, b = (matrix[...].astype(x.dtype) for matrix in self.adapter)
      y = y + x_flat @ a @ b
    y = y.reshape(*x.shape[: x.ndim - inputs], *kernel.shape[kernel.ndim - outputs :])
    if self.bias is not None:
      bias = self.bias[...].astype(x.dtype)
      y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    return y


class RMSNorm(nnx.Module):
  """Root-mean-square norm, computed in float32; with `plus_one` the parameter is scale − 1 (Gemma)."""

  def __init__(self, width: int, plus_one: bool = True, eps: float = 1e-6):
    self.scale = nnx.Param(jnp.zeros(width) if plus_one else jnp.ones(width))
    self.plus_one = plus_one
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
    scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
    return (x32 * (1.0 + scale if self.plus_one else scale)).astype(x.dtype)


class LayerNorm(nnx.Module):
  """Layer norm (Ba et al., arXiv 1607.06450), computed in float32."""

  def __init__(self, width: int, eps: float = 1e-6):
    self.scale = nnx.Param(jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
    shape = (1,) * (x.ndim - 1) + (-1,)
    return (x32 * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)).astype(x.dtype)


class FeedForward(nnx.Module):
  """Gated feed-forward: act(x W_gate) * (x W_up) W_down."""

  def __init__(self, width: int, ff_width: int, activation, rngs: nnx.Rngs):
    self.gate = Linear('...D,DF->...F', (width, ff_width), width, rngs)
    self.up = Linear('...D,DF->...F', (width, ff_width), width, rngs)
    self.down = Linear('...F,FD->...D', (ff_width, width), ff_width, rngs)
    self.activation = activation

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(self.activation(self.gate(x)) * self.up(x))


class PointwiseFeedForward(nnx.Module):
  """Feed-forward without a gate: act(x W_up + b_up) W_down + b_down."""

  def __init__(self, width: int, ff_width: int, activation, rngs: nnx.Rngs):
    self.up = Linear('...D,DF->...F', (width, ff_width), width, rngs, (ff_width,))
    self.down = Linear('...F,FD->...D', (ff_width, width), ff_width, rngs, (width,))
    self.activation = activation

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(self.activation(self.up(x)))


def _stretched(frequencies, factor, low, high, original):
  """Divides the frequencies of long wavelengths by `factor` (Llama 3, arXiv 2407.21783, section 3.4.2).

  Args:
    frequencies: radians per position.
    factor: divisor of frequencies with at most `low` turns in the pretraining's context.
    low, high: frequencies with at least `high` turns are unchanged; between the two limits the factor is
      interpolated.
    original: length of the pretraining's context.
  """
  turns = original * frequencies / (2 * math.pi)
  kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return (1.0 - kept) * frequencies / factor + kept * frequencies


def rotate(
  x: jax.Array,
  positions: jax.Array,
  base: jax.Array,
  factor: jax.Array | float = 1.0,
  llama3: tuple[float, ...] = (),
  width: int = 0,
) -> jax.Array:
  """Applies rotary position embeddings to the two halves of the head width (RoFormer; Gemma's layout).

  Args:
    x: `[..., T, N, H]`.
    positions: int `[..., T]`.
    base: scalar; a larger base gives longer wavelengths.
    factor: scalar that divides positions (linear scaling to longer contexts).
    llama3: further arguments of `_stretched`; empty: it is not applied.
    width: even number of features, from the first on, that are rotated; 0: all H.
  """
  if width and width < x.shape[-1]:
    rotated = rotate(x[..., :width], positions, base, factor, llama3)
    return jnp.concatenate([rotated, x[..., width:]], axis=-1)
  half = x.shape[-1] // 2
  exponents = jnp.arange(half, dtype=jnp.float32) / half
  frequencies = base**-exponents / factor
  if llama3:
    frequencies = _stretched(frequencies, *llama3)
  frequencies = frequencies.reshape((1,) * positions.ndim + (half,))
  angles = (positions[..., None].astype(jnp.float32) * frequencies)[..., None, :]
  sin, cos = jnp.sin(angles), jnp.cos(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(
    x.dtype
  )


def dropout(x: jax.Array, key: jax.Array | None, rate: float) -> jax.Array:
  """Applies inverted dropout with one random byte per element: the rate is rounded to a multiple of 1/256 below 1.

  A byte needs a quarter of the random bits of a float, which take a visible share of a small model's step.
  """
  dropped = min(round(rate * 256), 255)
  if key is None or dropped == 0:
    return x
  keep = jax.random.bits(key, x.shape, jnp.uint8) >= dropped
  return jnp.where(keep, x * (256 / (256 - dropped)), 0).astype(x.dtype)
