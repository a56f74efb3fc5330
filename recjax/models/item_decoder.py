"""A decoder with one position an item: a causal transformer over items, and a small decoder over the levels.

The input of an item is the sum of its code rows and, with `model.item_rows`, of a row of its own. From the state that
ends an item, a layer of one gated feed-forward branch predicts the next item's codes one after the other. It reads
the state plus the sum of the rows of the codes before. Every level has rows of its own, so the sum tells the codes apart.

The model reads the packed batches of the other decoders, in which the L tokens of an item are contiguous. A row of T
tokens has at most T / L items, so the transformer works on rows of T / L positions. In the search a beam costs one
feed-forward layer a code, and no attention.

Published: one position an item and a small decoder over the levels (MARIUS, arXiv 2508.14910). Ours: the sum of code
rows as the input, the feed-forward layer as the small decoder.
"""

import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.models import prefill
from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Family
from recjax.models.layers import ACTIVATIONS, FeedForward, dropout
from recjax.schema.model import Model
from recjax.sharding import rules
from recjax.sharding.mesh import constrain
from recjax.sids.token_space import TokenSpace

ROPE_BASE = 10_000.0


class ItemCache(NamedTuple):
  """The state of each prompt, and the codes of each beam.

  Attributes:
    item_state_BD: the state that ends the prompt's last item.
    prefix_BMD: sum of the rows of each beam's codes.
  """

  item_state_BD: jax.Array
  prefix_BMD: jax.Array

  def choose_beams(self, parents_BM: jax.Array) -> 'ItemCache':
    """Returns the cache in which beam m continues the suffix of beam `parents_BM[:, m]`."""
    return self._replace(
      prefix_BMD=jnp.take_along_axis(self.prefix_BMD, parents_BM[..., None], axis=1)
    )


class _Slots(NamedTuple):
  """Where the items of rows of tokens end.

  The first token of an example (BOS, or the marker of a task) is a slot. Every L tokens after it are one: an item, or the
  mask token repeated. P is the largest number of slots of a row.

  Attributes:
    level_BT: level of every token, from 1; 0 for special tokens.
    is_end_BT: whether a token ends a slot.
    index_BP: the token that ends each slot.
    is_slot_BP: False for slots that a row does not have.
    slot_BT: the latest slot that has ended at every token.
    is_whole_B: whether the row has these slots and no others.
  """

  level_BT: jax.Array
  is_end_BT: jax.Array
  index_BP: jax.Array
  is_slot_BP: jax.Array
  slot_BT: jax.Array
  is_whole_B: jax.Array

  @classmethod
  def of(cls, space: TokenSpace, tokens_BT, segments_BT, positions_BT) -> '_Slots':
    """Finds the slots; a token is a level's from the level's first id on."""
    firsts = [space.sid_start + start for start in space.level_starts]
    level_BT = sum((tokens_BT >= first).astype(jnp.int32) for first in firsts)
    is_read_BT, place_BT = segments_BT > 0, positions_BT % space.num_levels
    is_end_BT = is_read_BT & (place_BT == 0)
    is_odd_BT = is_read_BT & (level_BT > 0) & (level_BT % space.num_levels != place_BT)
    slots = space.row_capacity(tokens_BT.shape[1])
    index_BP = jnp.argsort(~is_end_BT, axis=1, stable=True)[:, :slots]
    is_slot_BP = jnp.take_along_axis(is_end_BT, index_BP, axis=1)
    slot_BT = jnp.clip(jnp.cumsum(is_end_BT, axis=1, dtype=jnp.int32) - 1, 0, slots - 1)
    is_whole_B = ~jnp.any(is_odd_BT, axis=1) & (jnp.sum(is_end_BT, axis=1) <= slots)
    return cls(level_BT, is_end_BT, index_BP, is_slot_BP, slot_BT, is_whole_B)


@dataclasses.dataclass(frozen=True)
class ItemDecoderConfig(DecoderConfig):
  """The shape of an item decoder.

  Attributes:
    level_ff_width: hidden width of the feed-forward layer of the small decoder.
  """

  level_ff_width: int = 128


class ItemDecoder(Decoder):
  """The item decoder over the token ids of `space`. It reads whole items; see the module."""

  def __init__(self, config: ItemDecoderConfig, space: TokenSpace, rngs: nnx.Rngs):
    super().__init__(config, space, rngs)
    width, activation = config.width, ACTIVATIONS[config.activation]
    init = jax.nn.initializers.normal(width**-0.5)
    self.level_bias = nnx.Param(init(rngs.params(), (space.num_levels, width), jnp.float32))
    self.level_norm = config.norm(width)
    self.level_ff = FeedForward(width, config.level_ff_width, activation, rngs)
    self.level_final_norm = config.norm(width)

  def hidden(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns normed states x_BTD, from which each position's target is predicted; see `Decoder.hidden`.

    The states of a row with other tokens than `_Slots` describes, or more than `TokenSpace.row_capacity` slots, are NaN.
    """
    return self.item_hidden(batch, key)[0]

  def item_hidden(
    self, batch: dict[str, jax.Array], key: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the states of `hidden`, and h_BTD: the state of the latest item that has ended at each position."""
    tokens_BT, segments_BT = batch['tokens'], batch['segments']
    keys = (None, None) if key is None else jax.random.split(key)
    positions_BT = batch['positions']
    slots = _Slots.of(self.tables.space, tokens_BT, segments_BT, positions_BT)
    sums_BTD = self._sums(tokens_BT, slots.level_BT)
    h_BPD = self._items(tokens_BT, segments_BT, positions_BT, sums_BTD, slots, keys[0])
    h_BTD = jnp.take_along_axis(h_BPD, slots.slot_BT[..., None], axis=1)
    is_end_BT1 = slots.is_end_BT[..., None]
    known_BT = jnp.where(slots.is_end_BT, 0, slots.level_BT)  # number of codes that are known
    x_BTD = h_BTD + jnp.where(is_end_BT1, 0, sums_BTD)
    return self._level(x_BTD, known_BT, keys[1]), h_BTD

  def _sums(self, tokens_BT: jax.Array, level_BT: jax.Array) -> jax.Array:
    """Returns at each token the sum of the rows of its item's tokens so far, itself included."""
    x_BTD = self._embed(tokens_BT, None)
    total_BTD = x_BTD
    for k in range(1, self.tables.space.num_levels):
      before_BTD = jnp.pad(x_BTD[:, :-k], ((0, 0), (k, 0), (0, 0)))
      total_BTD = total_BTD + jnp.where((level_BT > k)[..., None], before_BTD, 0)
    return total_BTD

  def _items(self, tokens_BT, segments_BT, positions_BT, sums_BTD, slots: _Slots, key):
    """Returns the states of the transformer over slots, `[B, P, D]`."""
    at_slots = lambda x_BT: jnp.take_along_axis(x_BT, slots.index_BP, axis=1)  # noqa: E731
    x_BPD = self._inputs(tokens_BT, sums_BTD, slots)
    segments_BP = jnp.where(slots.is_slot_BP, at_slots(segments_BT), 0)
    positions_BP = at_slots(positions_BT) // self.tables.space.num_levels
    h_BPD, _ = self.contextual(x_BPD, segments_BP, positions_BP, key)
    return jnp.where(slots.is_whole_B[:, None, None], h_BPD, jnp.nan)

  def _inputs(self, tokens_BT, sums_BTD, slots: _Slots):
    """Returns the inputs of the transformer over slots, `[B, P, D]`."""
    x_BPD = jnp.take_along_axis(sums_BTD, slots.index_BP[..., None], axis=1)
    if self.tables.has_items:
      behind_L = jnp.arange(self.tables.space.num_levels, dtype=jnp.int32)[::-1]
      index_BPL = jnp.maximum(slots.index_BP[..., None] - behind_L[None, None], 0)
      tokens_BPL = jnp.take_along_axis(
        tokens_BT[..., None], index_BPL.reshape(len(tokens_BT), -1, 1), axis=1
      )
      items_BP = self.tables.find_items(tokens_BPL.reshape(index_BPL.shape))
      x_BPD = x_BPD + self._scaled(self.tables.own_rows(items_BP, x_BPD.dtype))
    return constrain(x_BPD, 'residual')

  def _scaled(self, x: jax.Array) -> jax.Array:
    return x * np.asarray(self.config.width**0.5, x.dtype) if self.config.embedding_scale else x

  def _level(self, x: jax.Array, known: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Returns the states `[..., D]` that predict a code, from states plus the rows of the `known` codes `[...]`."""
    x = x + jnp.take(self.level_bias[...], known, axis=0).astype(x.dtype)
    branch = dropout(self.level_ff(self.level_norm(x)), key, self.config.dropout)
    return self.level_final_norm(x + branch)

  def start(
    self, prompts: dict[str, jax.Array], beams: int, suffix_length: int
  ) -> tuple[jax.Array, ItemCache]:
    """Reads the prompts, once for all beams; see `Decoder.start`. A beam appends at most the codes of one item."""
    del suffix_length
    h_BD, _ = self.read(prompts)
    prefix_BMD = jnp.zeros((len(h_BD), beams, h_BD.shape[-1]), h_BD.dtype)
    return self._level(h_BD, jnp.zeros(len(h_BD), jnp.int32)), ItemCache(h_BD, prefix_BMD)

  def read(self, prompts: dict[str, jax.Array]) -> tuple[jax.Array, prefill.KV]:
    """Returns the state that ends each prompt, and the keys and values of its slots; see `Decoder.read`.

    The lengths of a past count slots.
    """
    tokens_BS, lengths_B, past = prompts['tokens'], prompts['lengths'], prompts.get('past')
    space, at_S = self.tables.space, jnp.arange(tokens_BS.shape[1], dtype=jnp.int32)[None]
    positions_BS = jnp.broadcast_to(at_S, tokens_BS.shape)
    if past is not None:
      before_B1 = past.lengths_B[:, None]  # the first slot has one token
      positions_BS += jnp.where(before_B1 > 0, 1 + (before_B1 - 1) * space.num_levels, 0)
    slots = _Slots.of(space, tokens_BS, (at_S < lengths_B[:, None]).astype(jnp.int32), positions_BS)
    x_BPD = self._inputs(tokens_BS, self._sums(tokens_BS, slots.level_BT), slots)
    slots_B = jnp.sum(slots.is_slot_BP, axis=1, dtype=jnp.int32)
    h_BD, kv = prefill.read(self, x_BPD, slots_B, past)
    return jnp.where(slots.is_whole_B[:, None], h_BD, jnp.nan), kv

  def step(self, tokens_BM: jax.Array, step: int, cache: ItemCache) -> tuple[jax.Array, ItemCache]:
    """Appends one code to each beam at suffix position `step`; x_BMD predicts the next one."""
    prefix_BMD = cache.prefix_BMD + self._embed(tokens_BM, None)
    x_BMD = cache.item_state_BD[:, None] + prefix_BMD
    known_BM = jnp.full(tokens_BM.shape, step + 1, jnp.int32)
    return self._level(x_BMD, known_BM), cache._replace(prefix_BMD=prefix_BMD)


def _own_shape(model: Model) -> ItemDecoderConfig:
  """Returns the shape that the size fields of the config give; the small decoder is as wide as the states."""
  return ItemDecoderConfig.of_model(model, ROPE_BASE, level_ff_width=model.width)


FAMILY = Family(
  name='item_decoder',
  shape=ItemDecoderConfig,
  build=ItemDecoder,
  own_shape=_own_shape,
  reads_items_alone=True,
  parameter_rules=(
    (r'^level_bias$', (P(),)),
    (r'^level_ff/(gate|up)/kernel$', (P('fsdp', 'tensor'),)),  # D, F
    (r'^level_ff/down/kernel$', (P('tensor', 'fsdp'),)),  # F, D
    *rules.PARAMETER_RULES,
  ),
)
