"""Reads prompts for a search, and keeps their keys and values. Tokens may follow earlier ones whose keys and values are kept.

Of the last layer a search needs the keys and values of every token, and the state of the last token. So in a stack of
few layers, which is unrolled, the queries, the attention and the feed-forward layer of the last one are computed for
the end of each prompt alone. With d layers that saves about 3/4 of 1/d of the work. A deep stack is scanned, and its
last layer is like the others.
"""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from recjax.models import attention

UNROLLED = 8  # layers of the deepest stack that is unrolled

KV = tuple[jax.Array, jax.Array]


class Past(NamedTuple):
  """Keys and values of the tokens before those that are read.

  Attributes:
    kv: keys and values `[depth, B, K, S, H]`, with room for the new tokens. The key of position p is at index p.
    lengths_B: int32, number of earlier tokens.
  """

  kv: KV
  lengths_B: jax.Array


def by_head(kv: KV) -> KV:
  """Returns keys and values `[…, K, S, H]` of `[…, S, K, H]`: the layout of their products with queries."""
  return tuple(x.swapaxes(-3, -2) for x in kv)


def of_parents(of_beams: Any, parents_BM: jax.Array) -> Any:
  """Returns arrays `[depth, B, M, …]` of which beam m is that of beam `parents_BM[:, m]`, copied row by row."""
  pick = jax.vmap(lambda x, parents_M: x[:, parents_M], (1, 0), 1)
  return jax.tree.map(lambda x: pick(x, parents_BM), of_beams)


class Cache(NamedTuple):
  """Keys and values of the prompts, shared by all beams, and of each beam's own suffix.

  Attributes:
    prompt: keys and values `[depth, B, K, S, H]`.
    suffix: keys and values `[depth, B, M, L, K, H]`.
    lengths_B: int32, length of each prompt.
  """

  prompt: tuple[jax.Array, jax.Array]
  suffix: tuple[jax.Array, jax.Array]
  lengths_B: jax.Array

  @classmethod
  def of_prompts(cls, kv, lengths_B: jax.Array, beams: int, suffix_length: int) -> 'Cache':
    """Returns the cache after prompts with keys and values `[depth, B, K, S, H]`, with room for suffixes."""
    depth, B, K, _, H = kv[0].shape
    suffix = tuple(jnp.zeros((depth, B, beams, suffix_length, K, H), x.dtype) for x in kv)
    return cls(kv, suffix, lengths_B)

  def choose_beams(self, parents_BM: jax.Array) -> 'Cache':
    """Returns the cache in which beam m continues the suffix of beam `parents_BM[:, m]`."""
    return self._replace(suffix=of_parents(self.suffix, parents_BM))


def read(model, x_BTD, lengths_B: jax.Array, past: Past | None = None) -> tuple[jax.Array, KV]:
  """Runs the layers of a decoder over embedded tokens.

  Args:
    model: a `recjax.models.decoder.Decoder`.
    x_BTD: embedded tokens, padded on the right; the first is at position 0, or after the past.
    lengths_B: int32, number of tokens, at least 1.
    past: the tokens before. None: there are none.

  Returns:
    The normed state `[B, D]` of the last token, and the keys and values `[depth, B, K, S, H]` of all tokens, those of
    the past included. Of padding they are undefined.
  """
  B, T = x_BTD.shape[:2]
  at_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
  is_real_BT = at_BT < lengths_B[:, None]
  last_B1 = lengths_B[:, None] - 1
  if past is not None:
    x_BTD, kv = _after(model, x_BTD, at_BT + past.lengths_B[:, None], is_real_BT, past)
  elif model.config.depth <= UNROLLED:
    x_BD, kv = _unrolled(model, x_BTD, at_BT, is_real_BT.astype(jnp.int32), last_B1)
    return model.final_norm(x_BD), kv
  else:
    x_BTD, kv = model.contextual(x_BTD, is_real_BT.astype(jnp.int32), at_BT, None)
    kv = by_head(kv)
  return jnp.take_along_axis(x_BTD, last_B1[..., None], axis=1)[:, 0], kv


def _attended(block, x_BTD, positions_BT, kv: KV, this):
  """Returns x_BTD after a layer whose keys and values `[B, K, S, H]` are known; position p sees those up to p."""
  q, _, _, gate = block.attention.qkv(block.attention_norm(x_BTD), positions_BT, this)
  distance_BTS = positions_BT[..., None] - jnp.arange(kv[0].shape[2], dtype=jnp.int32)[None, None]
  visible_BTS = (distance_BTS >= 0) & this.sees(distance_BTS)
  attended = attention.attend_to_kept(q, kv, visible_BTS, block.config.attention_softcap)
  return block.finish(x_BTD, block.attention.output(attended, gate), (None, None))


def _unrolled(model, x_BTD, positions_BT, segments_BT, last_B1) -> tuple[jax.Array, KV]:
  """Returns the states `[B, D]` of the last tokens before the final norm, and all keys and values."""
  graph, weights = nnx.split(model.layers)
  mask, distance = attention.attention_mask(segments_BT, segments_BT, positions_BT, positions_BT)
  found, depth = [], model.config.depth
  for i in range(depth):
    block = nnx.merge(graph, jax.tree.map(lambda x, i=i: x[i], weights))
    this = jax.tree.map(lambda x, i=i: x[i], model.per_layer)
    if i < depth - 1:
      x_BTD, kv = block(x_BTD, segments_BT, positions_BT, mask, distance, this, None)
      found.append(by_head(kv))
  _, k, v, _ = block.attention.qkv(block.attention_norm(x_BTD), positions_BT, this)
  found.append(by_head((k, v)))
  x_B1D = jnp.take_along_axis(x_BTD, last_B1[..., None], axis=1)
  x_B1D = _attended(block, x_B1D, last_B1, found[-1], this)
  return x_B1D[:, 0], tuple(map(jnp.stack, zip(*found, strict=True)))


def _after(model, x_BTD, positions_BT, is_real_BT, past: Past) -> tuple[jax.Array, KV]:
  """Returns the normed states of tokens after a past, and all keys and values."""
  places_BT = jnp.where(is_real_BT, positions_BT, past.kv[0].shape[3])  # padding is dropped
  put = jax.vmap(lambda old, new, places_T: old.at[:, places_T].set(new, mode='drop'))

  def body(block, x, this, *kept):
    _, k, v, _ = block.attention.qkv(block.attention_norm(x), positions_BT, this)
    kv = tuple(put(old, new, places_BT) for old, new in zip(kept, by_head((k, v)), strict=True))
    return _attended(block, x, positions_BT, kv, this), kv

  x_BTD, kv = model.scan(body, x_BTD, *past.kv)
  return model.final_norm(x_BTD), kv
