"""Examples per second of training and users per second of the search: the item decoder beside the flattened decoder.

Both have the same sizes, the same random catalogue and the same packed windows. Their steps and their searches
alternate, so that other load on the machine slows both.

Command:  python -m bench.item_decoder --out=item_decoder.json
"""

import dataclasses
import time

from absl import app, flags
import jax
import numpy as np

from bench.circumstances import circumstances, show, write
from recjax import config as config_lib
from recjax.data.packing import Plan, pack
from recjax.data.tasks.base import Example
from recjax.data.vocabulary import SPECIALS
from recjax.decode.ranker import make_search
from recjax.decode.trie import Trie
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from recjax.training import optim
from recjax.training import state as state_lib
from recjax.training.step import jit_train_step

CODES = (256, 256, 256, 8)
BOS = 1

_ITEMS = flags.DEFINE_integer('items', 12_101, 'Items of the catalogue.')
_DEPTH = flags.DEFINE_integer('depth', 4, 'Layers of both models.')
_WIDTH = flags.DEFINE_integer('width', 128, 'Width of both models.')
_FF_WIDTH = flags.DEFINE_integer('ff_width', 512, 'Feed-forward width of both models.')
_ROWS = flags.DEFINE_integer('rows', 96, 'Packed rows of a step.')
_LONGEST = flags.DEFINE_integer(
  'longest', 21, 'Items of the longest window, and one more than those of a prompt.'
)
_MEAN = flags.DEFINE_float('mean', 7.0, 'Mean number of items of a window.')
_BEAMS = flags.DEFINE_integer('beams', 40, 'Beams of the search.')
_USERS = flags.DEFINE_integer('users', 128, 'Users of a batch of the search.')
_TURNS = flags.DEFINE_integer('turns', 10, 'Steps and searches of each side.')
_HEAD = flags.DEFINE_bool('item_head', False, 'Give both models an item head.')


def _config(family: str) -> config_lib.Config:
  config = config_lib.defaults(source='synthetic', name='bench')
  config.model.update(
    family=family, depth=_DEPTH.value, width=_WIDTH.value, ff_width=_FF_WIDTH.value
  )
  config.model.item_rows = family == 'item_decoder'
  config.model.item_head = _HEAD.value
  config.model.dropout = 0.2
  config.model.scan_unroll = _DEPTH.value if jax.default_backend() == 'cpu' else 1
  config.batch_size = config.packing.rows = _ROWS.value
  return config_lib.from_config_dict(config)


def _table() -> SidTable:
  """Returns random codes; the last level tells items with equal codes apart."""
  rng = np.random.default_rng(0)
  chosen = rng.choice(int(np.prod(CODES)), _ITEMS.value, replace=False)
  codes_IL = np.stack(np.unravel_index(chosen, CODES), axis=1).astype(np.int32)
  return SidTable(codes_IL, CODES, 'random')


def _batch(tokens_IL: np.ndarray, config: config_lib.Config, space: TokenSpace):
  """Returns packed windows of random items, and their number."""
  rng, L = np.random.default_rng(1), tokens_IL.shape[1]
  plan = Plan(1, _ROWS.value, _LONGEST.value * L, space=space)
  room, examples = _ROWS.value * plan.row_length * 0.95, []
  while room > 0:
    items = min(2 + rng.geometric(1 / max(_MEAN.value - 2, 1)), _LONGEST.value)
    targets = tokens_IL[rng.integers(_ITEMS.value, size=items)].ravel()
    examples.append(Example(np.array([BOS], np.int32), targets))
    room -= len(targets)
  component = next(iter(config.mixture.values()))
  part = type('Part', (), {'component': component})
  plan = dataclasses.replace(plan, examples=len(examples))
  return pack([(part, example) for example in examples], plan), len(examples)


class Side:
  """The compiled training step and search of one family."""

  def __init__(self, family: str, table: SidTable):
    space = TokenSpace(1024 + len(SPECIALS), CODES, table.catalogue)
    tokens_IL, config = space.tokens(table.codes_IL), _config(family)
    self.mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    batch, self.examples = _batch(tokens_IL, config, space)
    self.batch = mesh_lib.host_rows(batch, self.mesh)
    tx = optim.optimizer(config.optim, config.num_train_steps)
    abstract = state_lib.abstract_state(config.model, space, tx, self.mesh)
    self.step = jit_train_step(config, space, tx, False, abstract, self.mesh)
    self.state = state_lib.init_state(config.model, space, tx, self.mesh, 0)
    self.trie = jax.tree.map(jax.numpy.asarray, Trie.from_table(table))
    B, shown, L = _USERS.value, _LONGEST.value - 1, len(CODES)
    items_BN = np.random.default_rng(2).integers(_ITEMS.value, size=(B, shown)).astype(np.int32)
    tokens_BS = np.full((B, 1 + shown * L), BOS, np.int32)
    tokens_BS[:, 1:] = tokens_IL[items_BN].reshape(B, -1)
    self.prompts = {'tokens': tokens_BS, 'lengths': np.full(B, tokens_BS.shape[1], np.int32)}
    self.seen = items_BN
    self.search = jax.jit(make_search(config.model, space, _BEAMS.value))

  def train(self) -> float:
    """Runs one step; returns its seconds."""
    start = time.perf_counter()
    with jax.set_mesh(self.mesh):
      self.state, _ = self.step(self.state, self.batch)
    jax.block_until_ready(self.state)
    return time.perf_counter() - start

  def rank(self) -> float:
    """Searches for one batch; returns its seconds."""
    start = time.perf_counter()
    with jax.set_mesh(self.mesh):
      found = self.search(self.state.params, self.trie, self.prompts, self.seen)
    jax.block_until_ready(found)
    return time.perf_counter() - start


def main(_) -> None:
  table = _table()
  sides = {'item_decoder': Side('item_decoder', table), 'flattened': Side('gemma', table)}
  seconds = {name: ([], []) for name in sides}
  for turn in range(_TURNS.value + 1):
    for name, side in sides.items():
      measured = side.train(), side.rank()
      if turn:  # the first turn compiles
        for kept, value in zip(seconds[name], measured, strict=True):
          kept.append(value)
  result = {
    name: getattr(flags.FLAGS, name)
    for name in ('items', 'depth', 'width', 'ff_width', 'beams', 'item_head')
  }
  for name, (steps, searches) in seconds.items():
    result[f'{name}_examples_per_sec'] = sides[name].examples / float(np.median(steps))
    result[f'{name}_users_per_sec'] = _USERS.value / float(np.median(searches))
  for what in ('examples', 'users'):
    ours, theirs = (result[f'{name}_{what}_per_sec'] for name in sides)
    result[f'{what}_ratio'] = ours / theirs
  show(result)
  write({'circumstances': circumstances()} | result)


if __name__ == '__main__':
  app.run(main)
