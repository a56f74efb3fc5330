"""Compiles the training step and the search of a run for a TPU slice, without a TPU.

Only shapes are needed: no data and no weights. Sizes that the config does not determine are assumed and reported.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import time
import types
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np

from launch.compile.chips import Chip, chip_of
from recjax import config as config_lib
from recjax import models
from recjax.data import loader, packing
from recjax.data.tasks.base import Example
from recjax.data.vocabulary import SPECIALS
from recjax.decode import batches, precision
from recjax.decode.search import make_search
from recjax.decode.trie import Trie
from recjax.decode.widths import by_level
from recjax.models.pretrained import hub, read_config, text_pieces
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.quantizers.collisions import deduplicate
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from recjax.training import optim
from recjax.training import state as state_lib
from recjax.training.step import jit_train_step

DEDUPLICATION = 16  # minimum codes of the level that distinguishes items with equal SIDs
ITEMS = 50_000  # default size of the catalogue
PROMPT_WORDS = 24  # tokens of a prompt without its history
HISTORY = 64  # items of the longest history; all are excluded from the ranking
# For libtpu: it opens no chip, so several processes may use it at once, on any machine.
ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes that determine shapes, in addition to the config.

  Attributes:
    space: the token ids.
    sids: random codes of a catalogue.
    assumed: the assumptions, as text.
  """

  space: TokenSpace
  sids: SidTable
  assumed: tuple[str, ...]


def sizes(config: config_lib.Config, items: int = ITEMS) -> Sizes:
  """Returns the assumed sizes of a run.

  Args:
    config: the config of the run.
    items: number of items in the catalogue.
  """
  pieces, source = _pieces(config)
  levels = config.sids.codes
  codes_IL = np.random.default_rng(0).integers(0, levels, (items, len(levels)), dtype=np.int32)
  assumed = [f'{pieces:,} text pieces ({source})', f'{items:,} items with random codes']
  collisions = 'keep'
  if config.sids.quantizer == 'item':
    codes_IL, collisions = np.arange(items, dtype=np.int32)[:, None], 'none'
    assumed[1] = f'{items:,} items with a code each'
  elif config.sids.collisions == 'deduplicate' and config.sids.quantizer != 'import':
    collisions = 'deduplicate'
    codes_IL, needed = deduplicate(codes_IL)
    levels = (*levels, max(DEDUPLICATION, needed))
    assumed.append(f'a de-duplication level of {levels[-1]} codes')
  assumed.append(f'prompts of {PROMPT_WORDS} tokens and the history, {HISTORY} items excluded')
  table = SidTable(codes_IL, levels, 'random', collisions)
  space = TokenSpace(pieces + len(SPECIALS), levels, table.catalogue)
  return Sizes(space, table, tuple(assumed))


def _pieces(config: config_lib.Config) -> tuple[int, str]:
  model = config.model
  if model.pretrained is not None:
    folder = hub.path(model.pretrained)
    rows = read_config(folder).vocab_rows
    size = text_pieces(folder, rows)
    return size or rows, f'the {"tokenizer" if size else "table"} of {model.pretrained}'
  if model.size:
    size = models.family(model).sizes[model.size]
    source = 'tokenizer' if size.tokenizer_size else 'table'
    return size.tokenizer_size or size.vocab_rows, f'the {source} of {model.size} as published'
  return config.data.text_pieces, 'data.text_pieces'


def topology_devices(topology: str, slices: int = 1) -> tuple[Chip, list[Any]]:
  """Returns the chip of a topology, and the devices of so many slices as targets for the compiler.

  Raises:
    ValueError: the topology does not exist, or libtpu is not installed.
  """
  chip = chip_of(topology)
  for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise ValueError(
      'the package libtpu, which holds the TPU compiler, must be installed; it is missing. Run in a clone of the '
      "repository: pip install '.[tpu]' (no TPU is needed)"
    ) from error
  from jax.experimental import topologies

  options = {'chip_config_name': 'megacore'} if chip.name == 'v4' else {}
  if topology.endswith(':1x1'):
    options['chips_per_host_bounds'] = (1, 1, 1)
  if slices > 1:
    options['num_slices'] = slices
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **options)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'the topology must be an existing slice; got {topology!r}, which the compiler rejects '
      f'({error}). Set --topology'
    ) from error
  return chip, found.devices


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    hlo: optimised HLO text of one chip; empty if the compiler ran out of memory.
    memory: the result of `jax.stages.Compiled.memory_analysis`; None if the compiler ran out of memory.
    refusal: the compiler's message in that case.
    seconds: compilation time.
  """

  hlo: str
  memory: Any
  refusal: str
  seconds: float


@contextlib.contextmanager
def _cache_for(mesh: jax.sharding.Mesh) -> Iterator[None]:
  """Disables the compilation cache for TPUs: programs for absent chips cannot be read back."""
  enabled = jax.config.jax_enable_compilation_cache
  if mesh.devices.flat[0].platform != 'tpu' or not enabled:
    yield
    return
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', True)
    compilation_cache.reset_cache()


def _compile(jitted, mesh: jax.sharding.Mesh, *arguments: Any) -> Compiled:
  start = time.monotonic()
  with jax.set_mesh(mesh), _cache_for(mesh):
    lowered = jitted.lower(*arguments)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if not str(error).startswith('RESOURCE_EXHAUSTED'):
        raise
      return Compiled('', None, str(error), time.monotonic() - start)
  return Compiled(compiled.as_text(), compiled.memory_analysis(), '', time.monotonic() - start)


def bytes_a_device(tree: Any) -> int:
  """Returns the bytes per device of the arrays or ShapeDtypeStructs in a tree, by their shardings."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


class Programs:
  """The programs of a config on a mesh.

  Attributes:
    state: ShapeDtypeStructs of the training state, with their shardings.
    batch: ShapeDtypeStructs of a training batch.
    text_targets: whether the mixture has text targets.

  Raises:
    ValueError: the config does not match the mesh.
  """

  def __init__(self, config: config_lib.Config, sizes: Sizes, mesh: jax.sharding.Mesh):
    self._config, self._sizes, self._mesh = config, sizes, mesh
    self._tx = optim.optimizer(config.optim, config.num_train_steps)
    hosts = mesh_lib.host_part(mesh)[1]
    parts = mesh_lib.batch_shards(mesh) * config.grad_accumulation
    loader.check_batch(config.batch_size, config.packing.rows, hosts, parts)
    models.shape_of(config.model)
    self.text_targets = any(c.text_targets for c in config.active_mixture.values())
    self.state = state_lib.abstract_state(config.model, sizes.space, self._tx, mesh)
    self.batch = self._on_mesh(self._rows())

  def _on_mesh(self, shapes: Any) -> Any:
    rows = mesh_lib.batch_sharding(self._mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), shapes)

  def _rows(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch from the loader: those of a packed row, times the rows of the batch."""
    config = self._config
    decoder = (
      config.packing.decoder_row_length if models.family(config.model).is_encoder_decoder else 0
    )
    plan = packing.Plan(1, 1, config.packing.row_length, decoder)
    example = Example(np.zeros(1, np.int32), np.zeros(1, np.int32))
    component = next(iter(config.active_mixture.values()))
    part = types.SimpleNamespace(component=component)  # has the fields that packing reads
    row = packing.pack([(part, example)], plan)
    return {
      name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
      for name, x in row.items()
    }

  def train_step(self) -> Compiled:
    """Compiles the training step like `recjax.train.train`."""
    step = jit_train_step(
      *(self._config, self._sizes.space, self._tx, self.text_targets, self.state, self._mesh)
    )
    return _compile(step, self._mesh, self.state, self.batch)

  def search(self) -> Compiled:
    """Compiles the search like `recjax.decode.ranker.Ranker`, for the longest prompts."""
    trie, prompts, excluded = self.search_arguments()
    settings, space = self._config.eval, self._sizes.space
    model = precision.of_search(self._config.model, settings, self._mesh)
    beams = by_level(settings.beam_widths, settings.beams, space.num_levels)
    search = jax.jit(
      make_search(model, space, beams, settings.weights_dtype, settings.beam_cut),
      out_shardings=mesh_lib.replicated(self._mesh),
    )
    return _compile(search, self._mesh, self.state.params, trie, prompts, excluded)

  def search_arguments(self) -> tuple[Any, dict[str, Any], Any]:
    """Returns ShapeDtypeStructs of the trie, the prompts and the excluded items."""
    config = self._config
    task = config_lib.next_item_component(config)
    shown_as = task.shown_as(models.family(config.model).is_encoder_decoder)
    shown = 0 if shown_as == 'title' else self._sizes.space.num_levels
    shown += 0 if shown_as == 'sid' else task.title_tokens + 1  # and a separator
    multiple = batches.PROMPT_MULTIPLE
    S = -(-(PROMPT_WORDS + (task.max_items - 1) * shown) // multiple) * multiple
    shards = mesh_lib.batch_shards(self._mesh)
    B = -(-config.eval.batch_size // shards) * shards
    prompts = {
      'tokens': jax.ShapeDtypeStruct((B, S), np.int32),
      'lengths': jax.ShapeDtypeStruct((B,), np.int32),
    }
    excluded = jax.ShapeDtypeStruct((B, HISTORY), np.int32)
    replicated = mesh_lib.replicated(self._mesh)
    trie = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
      Trie.from_table(self._sizes.sids),
    )
    return trie, self._on_mesh(prompts), self._on_mesh(excluded)


def mesh_for(topology: str, mesh: Mesh, slices: int = 1) -> tuple[Chip, jax.sharding.Mesh]:
  """Returns the chip of a topology, and the mesh over the devices of so many slices.

  Raises:
    ValueError: the topology does not exist, or the product of the mesh axes is not its number of chips.
  """
  chip, devices = topology_devices(topology, slices)
  return chip, mesh_lib.make_mesh(mesh, devices)
