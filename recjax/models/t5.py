"""T5: an encoder–decoder with relative position buckets, RMSNorm and no biases (arXiv 1910.10683).

T5 v1.0 has a ReLU feed-forward and tied, scaled logits. v1.1, FLAN-T5 and mT5 have a gated GELU (arXiv
2002.05202) and an untied output. Layers are stacked on a leading axis and scanned. Dropout is applied to the
residual branches, the embedding and the final states.
"""

import functools
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from recjax.models import attention
from recjax.models.embedding import TokenTables
from recjax.models.family import Family, SpecialToken
from recjax.models.layers import ACTIVATIONS, FeedForward, Linear, RMSNorm, dropout
from recjax.models.mappings import t5 as mapping
from recjax.models.prefill import by_head, of_parents
from recjax.models.t5_config import SIZES, T5Config
from recjax.schema.checks import check
from recjax.schema.model import Model
from recjax.sharding.mesh import constrain
from recjax.sids.token_space import TokenSpace


class Cache(NamedTuple):
  """Keys and values of the prompts and the start token, shared by all beams, and of each beam's suffix.

  Attributes:
    cross: keys and values of the encoded prompts, `[depth, B, S, N, H]`.
    start: keys and values of the start token, `[depth, B, N, 1, H]`.
    suffix: keys and values of each beam's own tokens, `[depth, B, M, L, N, H]`.
    prompt_B1S: bool, False for padding.
  """

  cross: tuple[jax.Array, jax.Array]
  start: tuple[jax.Array, jax.Array]
  suffix: tuple[jax.Array, jax.Array]
  prompt_B1S: jax.Array

  def choose_beams(self, parents_BM: jax.Array) -> 'Cache':
    """Returns the cache in which beam m continues the suffix of beam `parents_BM[:, m]`."""
    return self._replace(suffix=of_parents(self.suffix, parents_BM))


def relative_buckets(
  distances: np.ndarray, bidirectional: bool, buckets: int, max_distance: int
) -> np.ndarray:
  """Returns int32 bucket numbers for key positions minus query positions (section 2.1 of the paper).

  Half of the buckets hold one distance each. The others hold ranges of larger distances, which grow by a
  constant factor up to `max_distance`. Causal queries see no later keys: those distances share bucket 0.
  """
  first = np.zeros_like(distances)
  if bidirectional:
    buckets //= 2
    first = np.where(distances > 0, buckets, 0)
    distances = np.abs(distances)
  else:
    distances = np.maximum(-distances, 0)
  exact = buckets // 2
  # In float32, as when the published models were trained: rounding matters at bucket borders.
  ratio = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact))
  ratio = ratio / np.float32(np.log(max_distance / exact)) * np.float32(buckets - exact)
  far = np.minimum(exact + ratio.astype(np.int32), buckets - 1)
  return (first + np.where(distances < exact, distances, far)).astype(np.int32)


class RelativeBias(nnx.Module):
  """A stack's bias on attention logits: one learnt number per bucket and head.

  Distances are counted along the row: the tokens of a packed segment are contiguous.
  """

  def __init__(self, config: T5Config, bidirectional: bool, rngs: nnx.Rngs):
    init = jax.nn.initializers.normal(config.width**-0.5)
    shape = (config.relative_buckets, config.heads)
    self.config = config
    self.bidirectional = bidirectional
    self.table = nnx.Param(init(rngs.params(), shape, jnp.float32))

  def at(self, distances: np.ndarray) -> jax.Array:
    """Returns the float32 bias `[N, R]` for R distances, key minus query."""
    config = self.config
    buckets = relative_buckets(
      distances, self.bidirectional, config.relative_buckets, config.relative_max_distance
    )
    return jnp.take(self.table[...], buckets, axis=0).T

  def __call__(self, length: int) -> jax.Array:
    """Returns the float32 bias `[N, T, T]` of a row of T = `length` tokens.

    Repeats a line of 2 T + 1 biases T times and cuts the result into rows of length 2 T, so that each row starts
    one distance earlier. The gradient of that is a sum. A gather would instead scatter N T T gradients into few
    numbers.
    """
    line = np.arange(2 * length + 1)
    line_NR = self.at(np.where(line <= length, line, line - 2 * length - 1))
    N, R = line_NR.shape
    flat = jnp.broadcast_to(line_NR[:, None], (N, length, R)).reshape(N, length * R)
    return flat[:, : length * (R - 1)].reshape(N, length, R - 1)[..., :length]


class Attention(nnx.Module):
  """Multi-head attention of one layer. Logits are not scaled; initial query weights are scaled instead."""

  def __init__(self, config: T5Config, rngs: nnx.Rngs):
    D, N, H = config.width, config.heads, config.head_width
    self.implementation = config.attention
    self.q = Linear('...D,DNH->...NH', (D, N, H), D * H, rngs)
    self.k = Linear('...D,DNH->...NH', (D, N, H), D, rngs)
    self.v = Linear('...D,DNH->...NH', (D, N, H), D, rngs)
    self.out = Linear('...NH,NHD->...D', (N, H, D), N * H, rngs)

  def kv(self, x_BSD):
    """Returns keys and values `[B, S, N, H]`."""
    return self.k(x_BSD), self.v(x_BSD)

  def __call__(self, x_BTD, kv, mask_BTS, bias=None):
    q = constrain(self.q(x_BTD), 'heads')
    return self.out(
      attention.attend(q, *kv, mask_BTS, bias=bias, implementation=self.implementation)
    )


class PlainFeedForward(nnx.Module):
  """Feed-forward without a gate: act(x W_up) W_down."""

  def __init__(self, width: int, ff_width: int, activation, rngs: nnx.Rngs):
    self.up = Linear('...D,DF->...F', (width, ff_width), width, rngs)
    self.down = Linear('...F,FD->...D', (ff_width, width), ff_width, rngs)
    self.activation = activation

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(self.activation(self.up(x)))


class Block(nnx.Module):
  """A layer of the encoder or, with `crossed`, of the decoder; each branch is normed and added to x."""

  def __init__(self, config: T5Config, crossed: bool, rngs: nnx.Rngs):
    self.rate = config.dropout
    norm = functools.partial(RMSNorm, config.width, plus_one=False, eps=config.norm_eps)
    self.attention_norm = norm()
    self.attention = Attention(config, rngs)
    if crossed:
      self.cross_attention_norm = norm()
      self.cross_attention = Attention(config, rngs)
    self.ff_norm = norm()
    feed_forward = FeedForward if config.gated else PlainFeedForward
    self.ff = feed_forward(config.width, config.ff_width, ACTIVATIONS[config.activation], rngs)

  def __call__(self, x_BTD, mask_BTS, bias, key, encoded_BSD=None, cross_mask_BTS=None):
    """Returns x_BTD after this layer; for a decoder also the keys and values of x and of `encoded_BSD`."""
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    y = self.attention_norm(x_BTD)
    kv = self.attention.kv(y)
    x = x_BTD + dropout(self.attention(y, kv, mask_BTS, bias), keys[0], self.rate)
    cross = None
    if encoded_BSD is not None:
      cross = self.cross_attention.kv(encoded_BSD)
      y = self.cross_attention(self.cross_attention_norm(x), cross, cross_mask_BTS)
      x = x + dropout(y, keys[1], self.rate)
    x = x + dropout(self.ff(self.ff_norm(x)), keys[2], self.rate)
    return constrain(x, 'residual'), None if cross is None else (kv, cross)

  def beam_step(self, x_BMD, step, start_kv, suffix_kv, cross_kv, prompt_B1S, bias_NS):
    """Computes one token per beam. Returns x_BMD and the suffix with this token written at `step`."""
    y = self.attention_norm(x_BMD)
    q = self.attention.q(y)
    suffix_kv = tuple(
      old.at[:, :, step].set(new) for old, new in zip(suffix_kv, self.attention.kv(y), strict=True)
    )
    written_L = jnp.arange(suffix_kv[0].shape[2]) <= step
    start_B1 = jnp.ones((x_BMD.shape[0], 1), bool)
    attended = attention.attend_from_beams(
      q, start_kv, suffix_kv, start_B1, written_L, bias_NS=bias_NS
    )
    x = x_BMD + self.attention.out(attended)
    # Cross-attention treats the M beams as M query positions.
    x = x + self.cross_attention(self.cross_attention_norm(x), cross_kv, prompt_B1S)
    return x + self.ff(self.ff_norm(x)), suffix_kv


class Stack(nnx.Module):
  """The stacked layers of the encoder or the decoder, with their bias and final norm."""

  def __init__(self, config: T5Config, crossed: bool, rngs: nnx.Rngs):
    self.config = config
    self.depth = config.decoder_depth if crossed else config.depth
    keys = jax.random.split(rngs.params(), self.depth)
    self.layers = nnx.vmap(lambda key: Block(config, crossed, nnx.Rngs(params=key)))(keys)
    self.relative_bias = RelativeBias(config, not crossed, rngs)
    self.final_norm = RMSNorm(config.width, plus_one=False, eps=config.norm_eps)

  def __call__(self, x_BTD, mask_BTS, key, encoded_BSD=None, cross_mask_BTS=None):
    """Returns normed states x_BTD, and for a decoder the keys and values of all layers."""
    bias = self.relative_bias(x_BTD.shape[1])
    keys = ()
    if key is not None:
      split = jax.random.split(key, 2 + self.depth)
      first, last, keys = split[0], split[1], (split[2:],)
      x_BTD = dropout(x_BTD, first, self.config.dropout)

    def body(block, x, layer_key=None):
      return block(x, mask_BTS, bias, layer_key, encoded_BSD, cross_mask_BTS)

    x_BTD, kv = self.config.scan(self.layers, body, x_BTD, *keys)
    x_BTD = self.final_norm(x_BTD)
    return x_BTD if key is None else dropout(x_BTD, last, self.config.dropout), kv


class T5(nnx.Module):
  """The encoder–decoder model over the token ids of `space`."""

  def __init__(self, config: T5Config, space: TokenSpace, rngs: nnx.Rngs):
    self.config = config
    scale = config.width**-0.5 if config.scaled else 1.0
    self.tables = TokenTables(
      space, config.width, rngs, tied=config.tied, output_scale=scale, input_std=1.0
    )
    self.encoder = Stack(config, False, rngs)
    self.decoder = Stack(config, True, rngs)

  def _embed(self, ids):
    return constrain(self.tables.lookup(ids, jnp.dtype(self.config.compute_dtype)), 'residual')

  def _encode(self, tokens_BS, segments_BS, key):
    mask = attention.segment_mask(segments_BS, segments_BS)
    return self.encoder(self._embed(tokens_BS), mask, key)[0]

  def hidden(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns normed states x_BTD, from which each decoder position's target is predicted.

    Args:
      batch: int32 `encoder_tokens` and `encoder_segments` `[B, S]`; `tokens` (the decoder's input: each
        segment begins with the start token) and `segments` `[B, T]`. A decoder segment sees the encoder
        segment of the same number; 0 is padding. Positions are not read: distances are counted along
        the row.
      key: for the dropout masks; None: no dropout.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    encoder_segments, segments = batch['encoder_segments'], batch['segments']
    encoded_BSD = self._encode(batch['encoder_tokens'], encoder_segments, keys[0])
    T = segments.shape[1]
    mask_BTT = attention.segment_mask(segments, segments) & jnp.tri(T, dtype=bool)[None]
    cross_mask_BTS = attention.segment_mask(segments, encoder_segments)
    x_BTD = self._embed(batch['tokens'])
    return self.decoder(x_BTD, mask_BTT, keys[1], encoded_BSD, cross_mask_BTS)[0]

  def start(
    self, prompts: dict[str, jax.Array], beams: int, suffix_length: int
  ) -> tuple[jax.Array, Cache]:
    """Encodes the prompts and reads the start token, once for all beams.

    Args:
      prompts: int32 `tokens` `[B, S]`, padded on the right, and `lengths` `[B]`, at least 1.
      beams: M.
      suffix_length: largest number of tokens that a beam appends.

    Returns:
      x_BD, from which each prompt's first new token is predicted, and the cache.
    """
    tokens_BS, lengths_B = prompts['tokens'], prompts['lengths']
    B, S = tokens_BS.shape
    prompt_BS = jnp.arange(S)[None] < lengths_B[:, None]
    encoded_BSD = self._encode(tokens_BS, prompt_BS.astype(jnp.int32), None)
    x_B1D = self._embed(jnp.full((B, 1), self.config.start_id, jnp.int32))
    prompt_B1S, seen_B11 = prompt_BS[:, None], jnp.ones((B, 1, 1), bool)
    x_B1D, (start, cross) = self.decoder(x_B1D, seen_B11, None, encoded_BSD, prompt_B1S)
    shape = (*start[0].shape[:2], beams, suffix_length, *start[0].shape[3:])
    suffix = tuple(jnp.zeros(shape, x.dtype) for x in start)
    return x_B1D[:, 0], Cache(cross, by_head(start), suffix, prompt_B1S)

  def step(self, tokens_BM: jax.Array, step: int, cache: Cache) -> tuple[jax.Array, Cache]:
    """Appends one token to each beam at suffix position `step`; x_BMD predicts the next one."""
    keys = 1 + cache.suffix[0].shape[3]  # the start token, then the suffix
    behind_S = jnp.maximum(step + 1 - jnp.arange(keys), 0)
    bias_NS = jnp.take(self.decoder.relative_bias.at(-np.arange(keys)), behind_S, axis=1)

    def body(block, x, start_kv, suffix_kv, cross_kv):
      return block.beam_step(x, step, start_kv, suffix_kv, cross_kv, cache.prompt_B1S, bias_NS)

    scanned = (cache.start, cache.suffix, cache.cross)
    x_BMD, suffix = self.config.scan(self.decoder.layers, body, self._embed(tokens_BM), *scanned)
    return self.decoder.final_norm(x_BMD), cache._replace(suffix=suffix)


def _own_shape(model: Model) -> T5Config:
  """Returns v1.1's architecture with the widths of the config and `depth` layers in both stacks."""
  check(
    model.kv_heads == model.heads,
    f'a T5 has as many key and value heads as query heads ({model.heads})',
    model.kv_heads,
    'model.kv_heads',
  )
  return T5Config(
    depth=model.depth,
    decoder_depth=model.depth,
    width=model.width,
    ff_width=model.ff_width,
    heads=model.heads,
    head_width=model.head_width,
  )


FAMILY = Family(
  name='t5',
  shape=T5Config,
  build=T5,
  own_shape=_own_shape,
  sizes=SIZES,
  checkpoints=mapping.CHECKPOINTS,
  is_encoder_decoder=True,
  eos=SpecialToken('</s>', 1),
  pad=SpecialToken('<pad>', 0),
)
