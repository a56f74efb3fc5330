"""Our sides of `bench.decode`: a random catalogue, the search with and without it, and the floor of its time."""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from bench.train_step import SMALL, alternate
from launch.compile import flops
from recjax import config as config_lib
from recjax import models
from recjax.decode import beam, cut
from recjax.decode.beam import log_probs
from recjax.decode.trie import Trie
from recjax.decode.widths import widths_of
from recjax.models import families
from recjax.models.t5 import T5Config
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace

CODES = 256  # of every level
SEEN = 20  # items that are excluded for a user


class Shapes(NamedTuple):
  """What is measured.

  Attributes:
    model: `decoder_128` (4 layers of width 128), `t5_128` (4 + 4 layers of width 128) or a published size.
    items: items of the catalogue.
    users: prompts of a batch.
    prompt: tokens of a prompt.
    beams: M.
  """

  model: str
  items: int
  users: int
  prompt: int
  beams: int


def config_of(model: str, dtype: str, sid_softmax: str = 'level') -> config_lib.Config:
  """Returns the config of a model of `Shapes`."""
  config = config_lib.defaults(source='synthetic', name='bench')
  if model in (SMALL, 't5_128'):
    config.model.family = 'gemma' if model == SMALL else 't5'
    config.model.update(depth=4, width=128, ff_width=512, heads=4, kv_heads=4, head_width=32)
  else:
    config.model.update(size=model, family=families.by_size(model).name)
  config.model.update(compute_dtype=dtype, sid_softmax=sid_softmax)
  config.model.scan_unroll = 12 if jax.default_backend() == 'cpu' else 1
  return config_lib.from_config_dict(config)


class World:
  """A catalogue of distinct random semantic IDs, and its trie on the device."""

  def __init__(self, items: int, levels: int = 4):
    rng = np.random.default_rng(0)
    chosen = np.unique(rng.integers(CODES**levels, size=items + items // 8, dtype=np.int64))
    chosen = np.sort(rng.permutation(chosen)[:items])
    codes = np.unravel_index(chosen, (CODES,) * levels)
    self.codes_IL = np.stack(codes, axis=1).astype(np.int32)
    table = SidTable(self.codes_IL, (CODES,) * levels, 'random', 'none')
    self.trie = jax.tree.map(jnp.asarray, Trie.from_table(table))


def open_search(model, prompts, beams: int, levels: int) -> tuple[jax.Array, jax.Array]:
  """Searches without a catalogue: every code may follow every code. Returns the last codes and the scores."""
  x_BD, cache = model.start(prompts, min(beams, CODES), levels - 1)
  x_BMD, scores_BM, first = x_BD[:, None], jnp.zeros((len(x_BD), 1)), model.tables.space.sid_start
  for level in range(levels):
    scores_BMC = scores_BM[..., None] + log_probs(model, x_BMD, level, 'level')
    flat_BX = scores_BMC.reshape(len(x_BD), -1)
    scores_BM, best_BM = jax.lax.top_k(flat_BX, min(beams, flat_BX.shape[1]))
    codes_BM = best_BM % CODES
    if level < levels - 1:
      cache = cache.choose_beams(best_BM // CODES) if level else cache
      x_BMD, cache = model.step(first + level * CODES + codes_BM, level, cache)
  return codes_BM, scores_BM


class Side:
  """The compiled search of a model with random weights. A call searches for one batch and waits for it."""

  def __init__(
    self,
    shapes: Shapes,
    world: World,
    is_open: bool = False,
    sid_softmax: str = 'level',
    dtype: str = 'float32',
    returned: int | None = None,
    cuts: bool = False,
    peak: float = 1.0,
  ):
    """Builds the model.

    Args:
      shapes: what is measured.
      world: the catalogue.
      is_open: whether there is none.
      sid_softmax: the softmax of the scores.
      dtype: type of the computation.
      returned: items of a search. None: as many as beams.
      cuts: whether beams are skipped.
      peak: factor on the rows of the codes.
    """
    config = config_of(shapes.model, dtype, sid_softmax)
    self.shapes, self.world, self.shape = shapes, world, models.shape_of(config.model)
    levels = world.codes_IL.shape[1]
    sizes = families.sizes()
    text = sizes[shapes.model].vocab_rows if shapes.model in sizes else 1024
    self.space = TokenSpace(text, (CODES,) * levels)
    built = models.build(config.model, self.space, config.seed)
    built.tables.sid[...] = built.tables.sid[...] * peak
    graph, self.params = nnx.split(built)
    widths = (*(shapes.beams,) * (levels - 1), returned or shapes.beams)
    rng = np.random.default_rng(1)
    size = (shapes.users, shapes.prompt)
    self.tokens_BS = rng.integers(2, self.space.size, size, dtype=np.int32)
    prompts = {'tokens': self.tokens_BS, 'lengths': np.full(shapes.users, shapes.prompt, np.int32)}
    excluded = rng.integers(0, len(world.codes_IL), (shapes.users, SEEN), dtype=np.int32)
    self._arguments = jax.tree.map(jnp.asarray, (prompts, excluded))

    def search(params, trie, prompts, excluded):
      model = nnx.merge(graph, params)
      if is_open:
        return open_search(model, prompts, shapes.beams, levels)
      x_BD, cache = model.start(prompts, widths_of(trie, widths)[0], levels - 1)
      find = cut.beams_after if cuts else beam.beams_after
      return find(model, trie, x_BD, cache, excluded, widths, sid_softmax)

    self._search = jax.jit(search)

  def __call__(self) -> tuple[jax.Array, jax.Array]:
    return jax.block_until_ready(self._search(self.params, self.world.trie, *self._arguments))


def turns(sides: dict[str, Any], turns: int = 4, steps: int = 2) -> dict[str, float]:
  """Runs the sides in turns; the users of a side are `shapes.users` of the one named recjax.

  Returns:
    Median seconds, on a CPU also CPU seconds, and users/s of every side; `speed_to_X`: how often ours is as fast as X, by
    CPU seconds on a CPU.
  """
  if jax.default_backend() != 'cpu':
    turns, steps = 1, 10
  users, on_cpu = sides['recjax'].shapes.users, jax.default_backend() == 'cpu'
  seconds, result = alternate(sides, turns, steps), {}
  for name, measured in seconds.items():
    result[f'{name}_seconds'], cpu = map(float, np.median(measured, axis=0))
    if on_cpu:
      result[f'{name}_cpu_seconds'] = cpu
    result[f'{name}_users_per_sec'] = users / result[f'{name}_seconds']
  kind = 'cpu_seconds' if on_cpu else 'seconds'
  for name in sides.keys() - {'recjax'}:
    result[f'speed_to_{name}'] = result[f'{name}_{kind}'] / result[f'recjax_{kind}']
  return result


def copy_speed() -> float:
  """Returns the bytes/s that a device reads and writes in a large sum, counting both."""
  x = jnp.zeros(2**26 if jax.default_backend() == 'cpu' else 2**28, jnp.float32)
  copied = {'recjax': lambda: jax.block_until_ready(add(x))}
  add = jax.jit(lambda x: x + 1)
  seconds = alternate(copied, 1, 5)['recjax'][:, 0]
  return 2 * x.nbytes / float(seconds.min())


def floor(side: Side, ceilings: dict[str, float]) -> dict[str, float]:
  """Returns FLOPs and bytes that a search needs, and their seconds at the machine's measured ceilings.

  FLOPs: the products of the layers for the prompts and for the tokens of the beams, their attention, and the logits of
  the codes. Bytes: the weights once for the prompts and once a step, and the keys and values of the prompts once a
  step. Each phase takes at least the longer of the two.
  """
  shapes, shape, levels = side.shapes, side.shape, side.world.codes_IL.shape[1]
  users, beams, is_t5 = shapes.users, shapes.beams, isinstance(side.shape, T5Config)
  lengths = (shapes.prompt, 1) if is_t5 else (shapes.prompt,)
  first = flops.forward(shape, lengths, 0)
  token = flops.forward(shape, (*lengths[:-1], lengths[-1] + 1), 0) - first
  logits = 2 * shape.width * CODES
  layers = sum(x.nbytes for x in jax.tree.leaves(side.params))
  layers -= sum(x.nbytes for x in jax.tree.leaves(side.params['tables']))
  kv_heads, depth = (shape.heads, shape.decoder_depth) if is_t5 else (shape.kv_heads, shape.depth)
  prompt_kv = 2 * 4 * users * shapes.prompt * depth * kv_heads * shape.head_width
  phases = [(users * (first + logits), layers + prompt_kv)]
  for level in range(1, levels):
    width = min(beams, side.world.trie.num_nodes[level])
    phases.append((users * width * (token + logits), layers + prompt_kv))
  flop_count, byte_count = (float(sum(column)) for column in zip(*phases, strict=True))
  seconds = sum(
    max(f / ceilings['flops_per_sec'], b / ceilings['bytes_per_sec']) for f, b in phases
  )
  return {'flops': flop_count, 'bytes': byte_count, 'floor_seconds': seconds}
