"""Reads checkpoint folders into sharded parameters, tensor by tensor."""

import logging
import re
from typing import Any

from etils import epath
from flax import nnx, traverse_util
import jax
import numpy as np

from recjax.models.mappings.weights import Weight, WeightMapping
from recjax.models.pretrained import hub, special_ids, tokenizer_files, weight_files
from recjax.models.pretrained.config_file import Pretrained, read_config
from recjax.models.pretrained.ids import FILE, NEW, id_map
from recjax.models.pretrained.tensors import Tensors
from recjax.sids.token_space import TokenSpace

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 25  # bytes of a token table that are read at a time
_NAMED = 3  # tensors of a kind in a message


def abstract(pretrained: Pretrained, space: TokenSpace) -> tuple[nnx.GraphDef, Any]:
  """Returns the model's structure and its parameters as ShapeDtypeStructs, nested by name."""
  build = pretrained.family.build
  model = nnx.eval_shape(lambda: build(pretrained.config, space, nnx.Rngs(params=0)))
  graph, params = nnx.split(model)
  return graph, nnx.to_pure_dict(params)


def their_shape(weight: Weight, ours: tuple[int, ...], vocab_rows: int) -> tuple[int, ...]:
  """Returns the shape of the checkpoint's tensor (of one layer), given our parameter's shape."""
  if weight.vocabulary:
    return (vocab_rows, *ours[1:])
  shape = ours[1:] if weight.layers else ours
  return weight.to_theirs(np.broadcast_to(np.zeros((), bool), shape)).shape


def layers_of(weight: Weight) -> list[int | None]:
  """Returns the layers of a rule; [None] for a single tensor."""
  return list(range(weight.layers)) if weight.layers else [None]


def match(
  mapping: WeightMapping, tensors: Tensors, shapes: dict[str, Any], vocab_rows: int
) -> dict[tuple[str, int | None], str]:
  """Returns the checkpoint's name of each parameter, by path and layer.

  Raises:
    ValueError: a tensor is missing, unexpected or has the wrong shape. The message lists the first ones of each.
  """
  found, known = {}, set()
  missing, misshaped = [], []
  for weight in mapping.weights:
    expected = their_shape(weight, shapes[weight.path].shape, vocab_rows)
    for layer in layers_of(weight):
      names = weight.names(layer)
      known.update(names)
      name = next((name for name in names if name in tensors.infos), None)
      if name is None:
        missing.append(f'missing: {names[0]} {list(expected)}')
      elif tensors.infos[name].shape != expected:
        got = list(tensors.infos[name].shape)
        misshaped.append(f'of another shape: {name} must be {list(expected)}, is {got}')
      else:
        found[weight.path, layer] = name
  ignored = re.compile('|'.join(mapping.ignored) or '(?!)')
  unexpected = [
    f'unexpected: {name}'
    for name in sorted(set(tensors.infos) - known)
    if not ignored.fullmatch(name)
  ]
  if number := len(missing) + len(misshaped) + len(unexpected):
    named = [line for lines in (missing, misshaped, unexpected) for line in lines[:_NAMED]]
    more = f'; and {number - len(named)} more' if number > len(named) else ''
    raise ValueError(
      f'the checkpoint must hold exactly the tensors of its config.json; {number} do not agree: '
      f'{"; ".join(named)}{more}. Set --config.model.pretrained to another folder'
    )
  return found


def _tell_left_out(folder: epath.Path, mapping: WeightMapping, names: list[str]) -> None:
  """Logs the tensors of images and of other parts beside the text model."""
  known = {name for w in mapping.weights for layer in layers_of(w) for name in w.names(layer)}
  others = [name for name in names if name not in known and not name.endswith('inv_freq')]
  if others:
    log.info(
      '%s: %d tensors that are not of the text model are left out: %s',
      *(folder, len(others), ', '.join(others[:_NAMED])),
    )


def check_folder(folder: epath.PathLike) -> None:
  """Checks everything in a checkpoint folder except the values of the tensors; takes seconds.

  Raises:
    FileNotFoundError, ValueError: see `load` (errors that depend on the token space excepted) and
      `special_ids.read`.
  """
  folder = hub.path(folder)
  found = read_config(folder)
  checkpoints = found.family.checkpoints
  space = TokenSpace(found.vocab_rows, ())
  shapes = traverse_util.flatten_dict(abstract(found, space)[1], sep='/')
  tensors = Tensors(folder, checkpoints.auto)
  mapping = checkpoints.mapping(found.config)
  names = set(match(mapping, tensors, shapes, found.vocab_rows).values())
  _tell_left_out(folder, mapping, sorted(set(tensors.infos) - names))
  tokenizer_files.tokenizer_size(folder, found.vocab_rows)
  special_ids.read(folder, found.family, found.vocab_rows)
  if (adapter := weight_files.adapter(folder)) is not None:
    log.warning(
      '%s also holds an adapter (%s), which is not applied: the run starts from the weights of the model '
      'alone',
      *(folder, adapter),
    )
  tokens = tokenizer_files.tokens(folder)
  taken = [] if tokens is None or (folder / FILE).exists() else tokens.sid_tokens()
  if taken:
    log.warning(
      'the tokenizer of %s already has SID tokens (%s and %d more): a run may train on it, but its export '
      'is refused if the names of its own SID tokens are among them',
      *(folder, taken[0], len(taken) - 1),
    )


class _Shards:
  """The shards of one parameter on this host's devices, filled one layer or chunk of rows at a time."""

  def __init__(self, leaf: jax.ShapeDtypeStruct):
    self.leaf = leaf
    self.sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    self.parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    for index in self.sharding.addressable_devices_indices_map(leaf.shape).values():
      bounds = self._bounds(index)
      if bounds not in self.parts:
        self.parts[bounds] = _aligned([stop - start for start, stop in bounds], leaf.dtype)

  def _bounds(self, index: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(i.indices(n)[:2] for i, n in zip(index, self.leaf.shape, strict=True))

  def set_layer(self, layer: int | None, values: np.ndarray) -> None:
    for bounds, part in self.parts.items():
      inner = bounds if layer is None else bounds[1:]
      if layer is not None:
        if not bounds[0][0] <= layer < bounds[0][1]:
          continue
        part = part[layer - bounds[0][0]]
      part[...] = values[tuple(slice(*b) for b in inner)]

  def set_rows(self, rows: np.ndarray, values: np.ndarray) -> None:
    """Sets rows of a table. `rows` holds for each row its index in `values`; -1: the row is not set."""
    for (first, stop), columns in self.parts:
      indices = rows[first:stop]
      part, chosen = self.parts[(first, stop), columns], np.flatnonzero(indices >= 0)
      part[chosen] = values[indices[chosen], slice(*columns)]

  def array(self) -> jax.Array:
    return jax.make_array_from_callback(
      self.leaf.shape, self.sharding, lambda index: self.parts[self._bounds(index)]
    )


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
  """Returns zeros aligned to 64 bytes, which the CPU backend uses without a copy."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  buffer = np.zeros(size + 64, np.uint8)
  start = -buffer.ctypes.data % 64
  return buffer[start : start + size].view(dtype).reshape(shape)


def _check_finite(tensors: Tensors, name: str, values: np.ndarray) -> None:
  if not np.isfinite(values).all():
    raise ValueError(
      f'the weights of a checkpoint must be finite; tensor {name} in {tensors.infos[name].file} holds NaN or '
      'infinity. Set --config.model.pretrained to another folder'
    )


def _fill_tables(tensors: Tensors, name: str, tables, sources, tokenizer_size: int) -> None:
  """Reads a token table chunk by chunk; rows that it lacks are set to the mean of the tokenizer's rows."""
  rows, width = tensors.infos[name].shape
  step = max(1, _CHUNK_BYTES // (width * tensors.infos[name].dtype.itemsize))
  tokens = min(tokenizer_size, rows)
  total = np.zeros(width, np.float64)
  for first in range(0, rows, step):
    values = tensors.read(name, first, step).astype(np.float32)
    _check_finite(tensors, name, values[: max(tokens - first, 0)])
    total += values[: max(tokens - first, 0)].sum(axis=0, dtype=np.float64)
    for table, source in zip(tables, sources, strict=True):
      inside = (source >= first) & (source < first + len(values))
      table.set_rows(np.where(inside, source - first, -1), values)
  mean = (total / tokens).astype(np.float32)[None]
  for table, source in zip(tables, sources, strict=True):
    table.set_rows(np.where(source == NEW, 0, -1), mean)


def load(
  folder: epath.PathLike,
  shapes: Any,
  space: TokenSpace,
  tokenizer_size: int | None = None,
  pretrained: Pretrained | None = None,
) -> Any:
  """Loads the parameters of a checkpoint folder; every array is created sharded.

  Host memory: the local shards, and one tensor of the checkpoint (for token tables, one chunk).

  Args:
    folder: config.json and safetensors of `transformers`.
    shapes: nested dict of ShapeDtypeStructs with shardings (None: the first device); see `abstract`.
    space: our token ids. Text ids below the tokenizer's size are its ids. Rows that the folder lacks (SID codes
      and our specials, unless it is an export of ours) are set to the mean row.
    tokenizer_size: None: the size of the folder's tokenizer (see `ids.id_map`).
    pretrained: the family and the shape to read. None: those of the folder.

  Raises:
    FileNotFoundError, ValueError: see `read_config`, `match` and `id_map`; a weight is not finite.
  """
  folder = hub.path(folder)
  pretrained = pretrained or read_config(folder)
  checkpoints = pretrained.family.checkpoints
  tensors = Tensors(folder, checkpoints.auto)
  mapping = checkpoints.mapping(pretrained.config)
  flat = traverse_util.flatten_dict(shapes, sep='/')
  names = match(mapping, tensors, flat, pretrained.vocab_rows)
  ids, exported = id_map(folder, space, tokenizer_size, pretrained.vocab_rows)
  arrays = {}
  for weight in mapping.weights:
    if weight.vocabulary:
      paths = (weight.path, sid_path(weight.path))
      tables = [_Shards(flat[path]) for path in paths]
      sources = ids.sources(exported, pretrained.vocab_rows)
      _fill_tables(tensors, names[weight.path, None], tables, sources, ids.tokenizer_size)
      arrays |= {path: table.array() for path, table in zip(paths, tables, strict=True)}
      continue
    shards = _Shards(flat[weight.path])
    for layer in layers_of(weight):
      values = tensors.read(names[weight.path, layer])
      _check_finite(tensors, names[weight.path, layer], values)
      shards.set_layer(layer, weight.to_ours(values))
    arrays[weight.path] = shards.array()
  return traverse_util.unflatten_dict(arrays, sep='/')


def sid_path(text_path: str) -> str:
  """Returns the path of the SID table that belongs to a text table."""
  return text_path.replace('tables/text', 'tables/sid')
