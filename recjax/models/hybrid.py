"""The decoder of Qwen 3.5: layers of linear attention (Gated DeltaNet) between layers of gated softmax attention.

Layers of a kind are stacked on a leading axis. A scan runs over the shortest period of the kinds, such as three
linear layers and a full one, and inside it one over each run of equal layers. Sources: `recjax.models.linear_attention`; gated attention: Qiu et al., arXiv 2505.06708.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import itertools
import operator
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from recjax.models import attention, prefill
from recjax.models.decoder import Block, Decoder, DecoderConfig, PerLayer
from recjax.models.layers import dropout
from recjax.models.linear_attention import BeamState, DeltaNet, Heads
from recjax.sharding.mesh import constrain

KINDS = ('linear', 'full')


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridConfig(DecoderConfig):
  """The shape of a hybrid decoder. `heads`, `kv_heads` and `head_width` are those of the full layers.

  Attributes:
    kinds: kind of each layer, of KINDS.
    linear: heads of the linear layers, in the order of `linear_attention.Heads`.

  Raises:
    ValueError: the kinds do not fit the depth, or one kind has no layer.
  """

  kinds: tuple[str, ...]
  linear: tuple[int, ...]

  def __post_init__(self):
    super().__post_init__()
    if len(self.kinds) != self.depth or set(self.kinds) != set(KINDS):
      raise ValueError(
        f'the kinds of the {self.depth} layers must be {" and ".join(KINDS)}, each at least once; got '
        f'{", ".join(self.kinds)}'
      )

  @property
  def delta_heads(self) -> Heads:
    return Heads(*self.linear)

  @property
  def period(self) -> tuple[str, ...]:
    """The kinds of the shortest period that divides the depth."""
    sizes = [n for n in range(1, self.depth + 1) if self.depth % n == 0]
    return next(self.kinds[:n] for n in sizes if self.kinds[:n] * (self.depth // n) == self.kinds)


class LinearBlock(Block):
  """A layer with linear attention."""

  def make_attention(self, rngs: nnx.Rngs) -> nnx.Module:
    config = self.config
    return DeltaNet(config.width, config.delta_heads, config.norm_eps, rngs)

  def __call__(self, x_BTD, segments_BT, real_BT, key):
    """Returns x_BTD after this layer, and the state and the inputs of `DeltaNet`."""
    branch, *states = self.attention(self.attention_norm(x_BTD), segments_BT, real_BT)
    keys = (None, None) if key is None else jax.random.split(key)
    return constrain(self.finish(x_BTD, branch, keys), 'residual'), tuple(states)

  def beam_step(self, x_BMD, cache: BeamState, step):
    """Computes one token per beam. Returns x_BMD and the cache."""
    branch, cache = self.attention.beam_step(self.attention_norm(x_BMD), cache, step)
    return self.finish(x_BMD, branch, (None, None)), cache


class Layers(nnx.Module):
  """The stacked layers by kind."""

  def __init__(self, config: HybridConfig, rngs: nnx.Rngs):
    def stack(kind, block):
      keys = jax.random.split(rngs.params(), config.kinds.count(kind))
      return nnx.vmap(lambda key: block(config, nnx.Rngs(params=key)))(keys)

    self.linear = stack('linear', LinearBlock)
    self.full = stack('full', Block)


class HybridCache(NamedTuple):
  """Caches of both kinds, stacked on a leading axis of layers.

  Attributes:
    full: keys and values.
    linear: states.
  """

  full: prefill.Cache
  linear: BeamState

  def choose_beams(self, parents_BM: jax.Array) -> 'HybridCache':
    """Returns the cache in which beam m continues the suffix of beam `parents_BM[:, m]`."""
    state, *of_beams = self.linear
    linear = BeamState(state, *prefill.of_parents(of_beams, parents_BM))
    return HybridCache(self.full.choose_beams(parents_BM), linear)


class HybridDecoder(Decoder):
  """The hybrid decoder over the token ids of a token space."""

  read = None  # the state of a linear layer is that of a whole prompt: prompts are not kept

  def make_layers(self, rngs: nnx.Rngs) -> nnx.Module:
    return Layers(self.config, rngs)

  def _run(
    self, visits: Mapping[str, Callable], x: jax.Array, inputs: Mapping[str, tuple]
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Runs the layers in order; `visits[kind](block, x, *slices of inputs[kind])` returns x and outputs."""
    config, period = self.config, self.config.period
    groups = config.depth // len(period)

    def grouped(x):
      return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])

    graphs, stacks = {}, {}
    for kind in KINDS:
      graphs[kind], weights = nnx.split(getattr(self.layers, kind))
      stacks[kind] = jax.tree.map(grouped, (weights, *inputs[kind]))

    def group(x, stacks):
      outputs = {kind: [] for kind in KINDS}
      used = dict.fromkeys(KINDS, 0)
      for kind, run in itertools.groupby(period):
        start = used[kind]
        used[kind] += len(list(run))
        part = operator.itemgetter(slice(start, used[kind]))
        weights, *own = jax.tree.map(part, stacks[kind])
        layers = nnx.merge(graphs[kind], weights)
        x, output = config.scan(layers, visits[kind], x, *own)
        outputs[kind].append(output)
      join = functools.partial(jax.tree.map, lambda *parts: jnp.concatenate(parts))
      return x, {kind: join(*parts) for kind, parts in outputs.items()}

    x, outputs = jax.lax.scan(group, x, stacks)
    return x, jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), outputs)

  def _of_full(self, values: tuple, dtype) -> jax.Array:
    """Returns per-layer values of the full layers."""
    return jnp.asarray(
      [x for x, kind in zip(values, self.config.kinds, strict=True) if kind == 'full'], dtype
    )

  @property
  def per_layer(self) -> PerLayer:
    config = self.config
    return PerLayer(
      self._of_full(config.windows, jnp.int32),
      self._of_full(config.rope_bases, jnp.float32),
      self._of_full(config.rope_factors or (1.0,) * config.depth, jnp.float32),
    )

  def _forward(self, tokens_BT, segments_BT, positions_BT, key, real_BT=None):
    mask, distance = attention.attention_mask(segments_BT, segments_BT, positions_BT, positions_BT)
    real_BT = segments_BT > 0 if real_BT is None else real_BT
    x_BTD = self._embed(tokens_BT, positions_BT)
    keys = dict.fromkeys(KINDS, ())
    if key is not None:
      key, embedding_key = jax.random.split(key)
      x_BTD = dropout(x_BTD, embedding_key, self.config.dropout)
      keys = {
        kind: (jax.random.split(jax.random.fold_in(key, i), self.config.kinds.count(kind)),)
        for i, kind in enumerate(KINDS)
      }

    def full(block, x, this, layer_key=None):
      return block(x, segments_BT, positions_BT, mask, distance, this, layer_key)

    def linear(block, x, layer_key=None):
      return block(x, segments_BT, real_BT, layer_key)

    inputs = {'full': (self.per_layer, *keys['full']), 'linear': keys['linear']}
    x_BTD, states = self._run({'full': full, 'linear': linear}, x_BTD, inputs)
    return self.final_norm(x_BTD), states

  def start(
    self, prompts: dict[str, jax.Array], beams: int, suffix_length: int
  ) -> tuple[jax.Array, HybridCache]:
    """Prefills the prompts, once for all beams; see `Decoder.start`."""
    tokens_BS, lengths_B = prompts['tokens'], prompts['lengths']
    B, S = tokens_BS.shape
    at_BS = jnp.broadcast_to(jnp.arange(S)[None], (B, S))
    # Padding belongs to the segment, so that the state stays that of the last token.
    x_BSD, states = self._forward(
      tokens_BS, jnp.ones((B, S), jnp.int32), at_BS, None, at_BS < lengths_B[:, None]
    )
    x_BD = jnp.take_along_axis(x_BSD, lengths_B[:, None, None] - 1, axis=1)[:, 0]
    return x_BD, HybridCache(
      prefill.Cache.of_prompts(prefill.by_head(states['full']), lengths_B, beams, suffix_length),
      jax.vmap(
        lambda state, inputs: BeamState.of_prompts(
          self.config.delta_heads, state, inputs, lengths_B, beams, suffix_length
        )
      )(*states['linear']),
    )

  def step(
    self, tokens_BM: jax.Array, step: int, cache: HybridCache
  ) -> tuple[jax.Array, HybridCache]:
    """Appends one token to each beam at suffix position `step`; see `Decoder.step`."""
    lengths_B = cache.full.lengths_B
    positions_BM = jnp.broadcast_to(lengths_B[:, None] + step, tokens_BM.shape)

    def full(block, x, this, prompt_kv, suffix_kv):
      return block.beam_step(x, positions_BM, step, prompt_kv, suffix_kv, lengths_B, this)

    def linear(block, x, cache):
      return block.beam_step(x, cache, step)

    x_BMD = self._embed(tokens_BM, positions_BM)
    inputs = {
      'full': (self.per_layer, cache.full.prompt, cache.full.suffix),
      'linear': (cache.linear,),
    }
    x_BMD, states = self._run({'full': full, 'linear': linear}, x_BMD, inputs)
    full_cache = cache.full._replace(suffix=states['full'])
    return self.final_norm(x_BMD), HybridCache(full_cache, states['linear'])
