"""The decoder of Gemma, Llama and Qwen: RMSNorm, rotary positions, grouped-query attention, gated feed-forward.

SASRec (`recjax.models.sasrec`) has the same decoder with other layers and with learned positions.

Layers are stacked on a leading axis and scanned. Values that differ by layer (window, RoPE base and factor) are
scanned arrays. Sources: Gemma (arXiv 2403.08295), Gemma 2 (2408.00118: soft-caps, post-norms, local
layers), Gemma 3 (2503.19786: QK-norm, two RoPE bases, stretched positions), Llama 3 (2407.21783: SiLU,
stretched wavelengths), Qwen 2.5 (2412.15115: biases), Qwen 3 (2505.09388: QK-norm without biases).
"""

import dataclasses
import functools
from typing import NamedTuple, Self

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from recjax.models import attention, prefill
from recjax.models.embedding import TokenTables
from recjax.models.layers import (
  ACTIVATIONS,
  Computation,
  FeedForward,
  Linear,
  RMSNorm,
  dropout,
  rotate,
)
from recjax.schema.model import Model
from recjax.sharding.mesh import constrain
from recjax.sids.token_space import TokenSpace


@dataclasses.dataclass(frozen=True)
class DecoderConfig(Computation):
  """The shape of a decoder; the defaults are those of Gemma 1.

  Attributes:
    windows: window of each layer: keys at distances below it are visible; 0: global.
    rope_bases: RoPE base of each layer.
    rope_factors: divisor of positions of each layer (linear RoPE scaling); empty: all 1.
    rope_llama3: factor, low and high frequency factor and original context length of RoPE scaling `llama3`;
      empty: none.
    rotary_width: features of a head that rotary positions rotate; 0: all.
    gated: whether the attention's output is multiplied by the sigmoid of a gate.
    post_norms: whether the outputs of the branches are normed too.
    qk_norm: whether queries and keys are normed over the head width.
    qkv_bias, out_bias: whether the attention's projections have biases.
    norm_plus_one: whether norms store scale − 1.
    embedding_scale: whether embeddings are multiplied by sqrt(width), rounded to the compute dtype.
    tied: whether the output uses the input tables.
    query_scale: factor on queries; None: head_width ** -0.5.

  Raises:
    ValueError: the length of a per-layer field is not the depth, or the key/value heads do not divide the heads.
  """

  depth: int
  width: int
  ff_width: int
  heads: int
  kv_heads: int
  head_width: int
  windows: tuple[int, ...]
  rope_bases: tuple[float, ...]
  rope_factors: tuple[float, ...] = ()
  rope_llama3: tuple[float, ...] = ()
  rotary_width: int = 0
  gated: bool = False
  post_norms: bool = False
  qk_norm: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  norm_plus_one: bool = True
  norm_eps: float = 1e-6
  activation: str = 'gelu_tanh'  # a name of recjax.models.layers.ACTIVATIONS
  embedding_scale: bool = True
  tied: bool = True
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  query_scale: float | None = None

  @classmethod
  def of_model(cls, model: Model, rope_base: float, **fields) -> Self:
    """Returns the shape that the size fields of the config give; every layer is global.

    Args:
      model: the model section.
      rope_base: RoPE base of all layers.
      **fields: further fields of the shape.
    """
    return cls(
      depth=model.depth,
      width=model.width,
      ff_width=model.ff_width,
      heads=model.heads,
      kv_heads=model.kv_heads,
      head_width=model.head_width,
      windows=(0,) * model.depth,
      rope_bases=(rope_base,) * model.depth,
      **fields,
    )

  def __post_init__(self):
    for name in ('windows', 'rope_bases', 'rope_factors'):
      length = len(getattr(self, name))
      if length != self.depth and not (name == 'rope_factors' and length == 0):
        raise ValueError(
          f'{name} must hold one value for each of the {self.depth} layers; got {length}'
        )
    if self.heads % self.kv_heads:
      raise ValueError(
        f'the heads ({self.heads}) must be a multiple of the key/value heads ({self.kv_heads})'
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'the activation must be one of {", ".join(ACTIVATIONS)}; got {self.activation!r}'
      )

  @property
  def learned_positions(self) -> int:
    """Number of positions with a learned row that is added to the embedding; 0: rotary positions."""
    return 0

  def norm(self, width: int) -> nnx.Module:
    """Builds a norm with this decoder's settings."""
    return RMSNorm(width, self.norm_plus_one, self.norm_eps)

  def feed_forward(self, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the feed-forward layer of a block."""
    return FeedForward(self.width, self.ff_width, ACTIVATIONS[self.activation], rngs)


class PerLayer(NamedTuple):
  """Per-layer values beside the weights: arrays `[depth]`, scalars inside the scan."""

  window: jax.Array
  rope_base: jax.Array
  rope_factor: jax.Array

  def sees(self, distance: jax.Array) -> jax.Array:
    """Returns whether a key at this distance is visible in the window."""
    return (self.window == 0) | (distance < self.window)


class Attention(nnx.Module):
  """Grouped-query attention of one layer."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    D, N, K, H = config.width, config.heads, config.kv_heads, config.head_width
    self.config = config
    Q = 2 * H if config.gated else H  # a query and its gate
    q_bias, kv_bias = ((N, Q), (K, H)) if config.qkv_bias else (None, None)
    self.q = Linear('...D,DNH->...NH', (D, N, Q), D, rngs, q_bias)
    self.k = Linear('...D,DKH->...KH', (D, K, H), D, rngs, kv_bias)
    self.v = Linear('...D,DKH->...KH', (D, K, H), D, rngs, kv_bias)
    out_bias = (D,) if config.out_bias else None
    self.out = Linear('...NH,NHD->...D', (N, H, D), N * H, rngs, out_bias)
    if config.qk_norm:
      self.q_norm, self.k_norm = config.norm(H), config.norm(H)

  def qkv(self, x, positions, this: PerLayer):
    """Returns scaled queries, keys, values and the gate (or None) `[..., T, heads, H]` for x `[..., T, D]`.

    Queries and keys are rotated unless positions are learned.
    """
    q, k, v, gate = self.q(x), self.k(x), self.v(x), None
    if self.config.gated:
      q, gate = jnp.split(q, 2, axis=-1)
    if self.config.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    scale = self.config.query_scale or self.config.head_width**-0.5
    if self.config.learned_positions:
      return q * scale, k, v, gate
    rotated = functools.partial(
      *(rotate,),
      positions=positions,
      base=this.rope_base,
      factor=this.rope_factor,
      llama3=self.config.rope_llama3,
      width=self.config.rotary_width,
    )
    return rotated(q) * scale, rotated(k), v, gate

  def output(self, x, gate):
    """Returns the branch `[..., T, D]` of attended values `[..., T, N, H]` and their gate."""
    return self.out(x if gate is None else x * jax.nn.sigmoid(gate))


class Block(nnx.Module):
  """One layer: attention and feed-forward, each normed and added to the residual stream."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    self.attention_norm = config.norm(config.width)
    self.attention = self.make_attention(rngs)
    self.ff_norm = config.norm(config.width)
    self.ff = config.feed_forward(rngs)
    if config.post_norms:
      self.attention_post_norm = config.norm(config.width)
      self.ff_post_norm = config.norm(config.width)

  def make_attention(self, rngs: nnx.Rngs) -> nnx.Module:
    return Attention(self.config, rngs)

  def _add(self, x, branch, post_norm: str, key):
    if self.config.post_norms:
      branch = getattr(self, post_norm)(branch)
    return x + dropout(branch, key, self.config.dropout)

  def finish(self, x, branch, keys):
    """Computes the rest of the layer after the attention; `keys` are for dropout, (None, None): no dropout."""
    x = self._add(x, branch, 'attention_post_norm', keys[0])
    return self._add(x, self.ff(self.ff_norm(x)), 'ff_post_norm', keys[1])

  def __call__(self, x_BTD, segments_BT, positions_BT, mask_BTS, distance_BTS, this: PerLayer, key):
    """Returns x_BTD after this layer, and its keys and values `[B, S, K, H]`."""
    q, k, v, gate = self.attention.qkv(self.attention_norm(x_BTD), positions_BT, this)
    q = constrain(q, 'heads')
    mask_BTS = mask_BTS & this.sees(distance_BTS)
    packed = attention.PackedCausal(segments_BT, this.window, self.config.windows)
    attended = attention.attend(
      *(q, k, v, mask_BTS, self.config.attention_softcap),
      packed=packed,
      implementation=self.config.attention,
    )
    keys = (None, None) if key is None else jax.random.split(key)
    branch = self.attention.output(attended, gate)
    return constrain(self.finish(x_BTD, branch, keys), 'residual'), (k, v)

  def beam_step(self, x_BMD, positions_BM, step, prompt_kv, suffix_kv, lengths_B, this: PerLayer):
    """Computes one token per beam. Returns x_BMD and the suffix with this token written at `step`."""
    q, k, v, gate = self.attention.qkv(self.attention_norm(x_BMD), positions_BM, this)
    suffix_kv = tuple(
      old.at[:, :, step].set(new) for old, new in zip(suffix_kv, (k, v), strict=True)
    )
    prompt_B1 = lengths_B[:, None]
    at_S = jnp.arange(prompt_kv[0].shape[2])[None]
    distance_BS = prompt_B1 + step - at_S
    prompt_mask = (at_S < prompt_B1) & this.sees(distance_BS)
    at_L = jnp.arange(suffix_kv[0].shape[2])
    suffix_mask = (at_L <= step) & this.sees(step - at_L)
    attended = attention.attend_from_beams(
      q, prompt_kv, suffix_kv, prompt_mask, suffix_mask, self.config.attention_softcap
    )
    branch = self.attention.output(attended, gate)
    return self.finish(x_BMD, branch, (None, None)), suffix_kv


class Decoder(nnx.Module):
  """The decoder model over the token ids of `space`."""

  def __init__(self, config: DecoderConfig, space: TokenSpace, rngs: nnx.Rngs):
    self.config = config
    self.tables = TokenTables(
      space, config.width, rngs, tied=config.tied, logit_softcap=config.logit_softcap
    )
    self.layers = self.make_layers(rngs)
    self.final_norm = config.norm(config.width)
    if config.learned_positions:
      init = jax.nn.initializers.normal(config.width**-0.5)
      shape = (config.learned_positions, config.width)
      self.positions = nnx.Param(init(rngs.params(), shape, jnp.float32))

  def make_layers(self, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the stacked layers."""
    keys = jax.random.split(rngs.params(), self.config.depth)
    return nnx.vmap(lambda key: Block(self.config, nnx.Rngs(params=key)))(keys)

  def _embed(self, ids, positions):
    dtype = jnp.dtype(self.config.compute_dtype)
    x = self.tables.lookup(ids, dtype)
    if self.config.embedding_scale:
      x = x * np.asarray(self.config.width**0.5, dtype)
    if self.config.learned_positions:
      x = x + jnp.take(self.positions[...], positions, axis=0).astype(dtype)
    return constrain(x, 'residual')

  @property
  def per_layer(self) -> PerLayer:
    """The per-layer values, stacked."""
    config = self.config
    return PerLayer(
      jnp.asarray(config.windows, jnp.int32),
      jnp.asarray(config.rope_bases, jnp.float32),
      jnp.asarray(config.rope_factors or (1.0,) * config.depth, jnp.float32),
    )

  def scan(self, body, x, *scanned):
    """Runs `body(block, x, per_layer, *slices of scanned)` over the layers."""
    return self.config.scan(self.layers, body, x, self.per_layer, *scanned)

  def hidden(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns normed states x_BTD, from which each position's target is predicted.

    Args:
      batch: int32 `tokens`, `segments` (0: padding) and `positions`, each `[B, T]`.
      key: for the dropout masks; None: no dropout.
    """
    return self._forward(batch['tokens'], batch['segments'], batch['positions'], key)[0]

  def _forward(self, tokens_BT, segments_BT, positions_BT, key):
    x_BTD = self._embed(tokens_BT, positions_BT)
    return self.contextual(x_BTD, segments_BT, positions_BT, key)

  def contextual(self, x_BTD, segments_BT, positions_BT, key):
    """Returns the normed states of embeddings, and the keys and values of every layer."""
    mask, distance = attention.attention_mask(segments_BT, segments_BT, positions_BT, positions_BT)
    layer_keys = ()
    if key is not None:
      key, embedding_key = jax.random.split(key)
      x_BTD = dropout(x_BTD, embedding_key, self.config.dropout)
      layer_keys = (jax.random.split(key, self.config.depth),)

    def body(block, x, this, layer_key=None):
      return block(x, segments_BT, positions_BT, mask, distance, this, layer_key)

    x_BTD, kv = self.scan(body, x_BTD, *layer_keys)
    return self.final_norm(x_BTD), kv

  def start(
    self, prompts: dict[str, jax.Array], beams: int, suffix_length: int
  ) -> tuple[jax.Array, prefill.Cache]:
    """Prefills the prompts, once for all beams.

    Args:
      prompts: int32 `tokens_BS`, padded on the right, and `lengths_B`, at least 1; optionally `past`, a
        `prefill.Past` that the tokens follow.
      beams: M.
      suffix_length: largest number of tokens that a beam appends.

    Returns:
      x_BD, from which each prompt's first new token is predicted, and the cache.
    """
    x_BD, kv = self.read(prompts)
    lengths_B = prompts['lengths'] + (prompts['past'].lengths_B if 'past' in prompts else 0)
    return x_BD, prefill.Cache.of_prompts(kv, lengths_B, beams, suffix_length)

  def read(self, prompts: dict[str, jax.Array]) -> tuple[jax.Array, prefill.KV]:
    """Returns the normed state that ends each prompt, and the keys and values `[depth, B, K, S, H]`; see `start`."""
    tokens_BS, past = prompts['tokens'], prompts.get('past')
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None], tokens_BS.shape)
    if past is not None:
      positions_BS += past.lengths_B[:, None]
    return prefill.read(self, self._embed(tokens_BS, positions_BS), prompts['lengths'], past)

  def step(
    self, tokens_BM: jax.Array, step: int, cache: prefill.Cache
  ) -> tuple[jax.Array, prefill.Cache]:
    """Appends one token to each beam at suffix position `step`; x_BMD predicts the next one."""
    positions_BM = jnp.broadcast_to(cache.lengths_B[:, None] + step, tokens_BM.shape)

    def body(block, x, this, prompt_kv, suffix_kv):
      return block.beam_step(x, positions_BM, step, prompt_kv, suffix_kv, cache.lengths_B, this)

    x_BMD = self._embed(tokens_BM, positions_BM)
    x_BMD, suffix = self.scan(body, x_BMD, cache.prompt, cache.suffix)
    return self.final_norm(x_BMD), cache._replace(suffix=suffix)
