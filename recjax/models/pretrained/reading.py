"""Hugging Face folders → sharded parameters, tensor by tensor."""

import json
import re
import types
from typing import Any, NamedTuple

from etils import epath
from flax import nnx, traverse_util
import jax
import numpy as np

from recjax.models.decoder import DecoderConfig, Gemma
from recjax.models.pretrained import gemma, qwen, t5, tokenizer_files
from recjax.models.pretrained.ids import NEW, id_map
from recjax.models.pretrained.mapping import Mapping, Weight
from recjax.models.pretrained.tensors import Tensors
from recjax.models.t5 import T5
from recjax.models.t5_config import T5Config
from recjax.sids.token_space import TokenSpace

# family: (what reads its folders, the model, the class of `transformers`)
FAMILIES: dict[str, tuple[types.ModuleType, type, str]] = {
  'gemma': (gemma, Gemma, 'AutoModelForCausalLM'),
  'qwen': (qwen, Gemma, 'AutoModelForCausalLM'),
  't5': (t5, T5, 'AutoModelForSeq2SeqLM'),
}
_CHUNK_BYTES = 1 << 25  # of a token table that are read at one time


class Pretrained(NamedTuple):
  """What a folder's config.json says.

  Attributes:
    family: a name of FAMILIES.
    config: of the model; `dropout`, `compute_dtype` and what follows are at their defaults.
    vocab_rows: rows of the token table, usually more than the tokenizer has tokens.
    hf: config.json; of a multimodal folder its text part.
  """

  family: str
  config: DecoderConfig | T5Config
  vocab_rows: int
  hf: dict[str, Any]


def _text_config(folder: epath.Path) -> dict[str, Any]:
  file = folder / 'config.json'
  if not file.exists():
    raise FileNotFoundError(
      f'{folder} must be a checkpoint folder of transformers; it holds no config.json. Set '
      '--config.model.pretrained'
    )
  try:
    hf = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} must be JSON: {error}') from error
  if not isinstance(hf, dict):
    raise ValueError(f'{file} must hold a JSON object; got {type(hf).__name__}')
  if hf.get('model_type') == 'gemma3':  # multimodal
    whole = {
      name: hf[name]
      for name in ('dtype', 'torch_dtype', 'bos_token_id', 'eos_token_id', 'tie_word_embeddings')
      if hf.get(name) is not None
    }
    hf = whole | hf['text_config'] | {'model_type': 'gemma3_text'}
  if hf.get('model_type') == 'gemma3_text':
    hf = gemma.with_defaults(hf)
  return hf


def read_config(folder: epath.PathLike) -> Pretrained:
  """Which model a folder holds.

  Raises:
    FileNotFoundError: no config.json, or no tensors.
    ValueError: an architecture or a setting that we do not compute; files that are not whole.
  """
  folder = epath.Path(folder)
  hf = _text_config(folder)
  for family, (module, _, auto) in FAMILIES.items():
    if hf.get('model_type') in module.MODEL_TYPES:
      names = Tensors(folder, auto).infos
      return Pretrained(family, module.config_of(hf, names), hf['vocab_size'], hf)
  known = [kind for module, _, _ in FAMILIES.values() for kind in module.MODEL_TYPES]
  raise ValueError(
    f'model_type of {folder / "config.json"} must be one of {", ".join([*known, "gemma3"])}; got '
    f'{hf.get("model_type")!r}. Set --config.model.pretrained to another folder'
  )


def abstract(pretrained: Pretrained, space: TokenSpace) -> tuple[nnx.GraphDef, Any]:
  """The model's structure and its parameters as ShapeDtypeStructs, nested by name."""
  build = FAMILIES[pretrained.family][1]
  model = nnx.eval_shape(lambda: build(pretrained.config, space, nnx.Rngs(params=0)))
  graph, params = nnx.split(model)
  return graph, nnx.to_pure_dict(params)


def their_shape(weight: Weight, ours: tuple[int, ...], vocab_rows: int) -> tuple[int, ...]:
  """The shape of the checkpoint's tensor (of one layer) from that of our parameter."""
  if weight.vocabulary:
    return (vocab_rows, *ours[1:])
  shape = ours[1:] if weight.layers else ours
  return weight.to_theirs(np.broadcast_to(np.zeros((), bool), shape)).shape


def layers_of(weight: Weight) -> list[int | None]:
  return list(range(weight.layers)) if weight.layers else [None]


def match(
  mapping: Mapping, tensors: Tensors, shapes: dict[str, Any], vocab_rows: int
) -> dict[tuple[str, int | None], str]:
  """The checkpoint's name of each parameter, by path and layer.

  Raises:
    ValueError: lists every tensor that is missing, unexpected or of another shape.
  """
  found, known, problems = {}, set(), []
  for weight in mapping.weights:
    expected = their_shape(weight, shapes[weight.path].shape, vocab_rows)
    for layer in layers_of(weight):
      names = weight.names(layer)
      known.update(names)
      name = next((name for name in names if name in tensors.infos), None)
      if name is None:
        problems.append(f'missing: {names[0]} {list(expected)}')
      elif tensors.infos[name].shape != expected:
        got = list(tensors.infos[name].shape)
        problems.append(f'of another shape: {name} must be {list(expected)}, is {got}')
      else:
        found[weight.path, layer] = name
  ignored = re.compile('|'.join(mapping.ignored) or '(?!)')
  problems += [
    f'unexpected: {name}'
    for name in sorted(set(tensors.infos) - known)
    if not ignored.fullmatch(name)
  ]
  if problems:
    raise ValueError(
      f'the checkpoint must hold exactly the tensors of its config.json; {len(problems)} do not agree:\n  '
      + '\n  '.join(problems)
    )
  return found


def check_folder(folder: epath.PathLike) -> None:
  """Looks at everything but the values of the tensors, in seconds.

  Raises:
    FileNotFoundError, ValueError: what `load` would raise, but for what depends on the run's token space.
  """
  folder = epath.Path(folder)
  found = read_config(folder)
  module, _, auto = FAMILIES[found.family]
  space = TokenSpace(found.vocab_rows, ())
  shapes = traverse_util.flatten_dict(abstract(found, space)[1], sep='/')
  match(module.mapping(found.config), Tensors(folder, auto), shapes, found.vocab_rows)
  tokenizer_files.tokenizer_size(folder, found.vocab_rows)


class _Shards:
  """The parts of one parameter that live on this host's devices, filled bit by bit."""

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
    """Sets the rows where `rows` (an index into `values` for each row, or -1) is not negative."""
    for (first, stop), columns in self.parts:
      here = rows[first:stop]
      part, chosen = self.parts[(first, stop), columns], np.flatnonzero(here >= 0)
      part[chosen] = values[here[chosen], slice(*columns)]

  def array(self) -> jax.Array:
    return jax.make_array_from_callback(
      self.leaf.shape, self.sharding, lambda index: self.parts[self._bounds(index)]
    )


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
  """Zeros at a multiple of 64 bytes, which the CPU backend takes over without a copy."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  buffer = np.zeros(size + 64, np.uint8)
  start = -buffer.ctypes.data % 64
  return buffer[start : start + size].view(dtype).reshape(shape)


def _fill_tables(tensors: Tensors, name: str, tables, sources, tokenizer_size: int) -> None:
  """Reads a token table in pieces into ours; rows that it lacks become the mean of the tokenizer's."""
  rows, width = tensors.infos[name].shape
  step = max(1, _CHUNK_BYTES // (width * tensors.infos[name].dtype.itemsize))
  tokens = min(tokenizer_size, rows)
  total = np.zeros(width, np.float64)
  for first in range(0, rows, step):
    values = tensors.read(name, first, step).astype(np.float32)
    total += values[: max(tokens - first, 0)].sum(axis=0, dtype=np.float64)
    for table, source in zip(tables, sources, strict=True):
      inside = (source >= first) & (source < first + len(values))
      table.set_rows(np.where(inside, source - first, -1), values)
  mean = (total / tokens).astype(np.float32)[None]
  for table, source in zip(tables, sources, strict=True):
    table.set_rows(np.where(source == NEW, 0, -1), mean)


def load(
  folder: epath.PathLike, shapes: Any, space: TokenSpace, tokenizer_size: int | None = None
) -> Any:
  """The parameters of a folder, each created in its shards.

  Host memory: the local shards, and one tensor of the checkpoint (a piece of it, for token tables).

  Args:
    folder: config.json and safetensors of `transformers`.
    shapes: nested dict of ShapeDtypeStructs, with shardings (None: the first device), such as `abstract`
      gives.
    space: our token ids. Text ids below the tokenizer's size are its ids. Rows that the folder does not
      hold (SID codes, specials of ours) become the mean row; in an export of ours they are read.
    tokenizer_size: None: of the folder's tokenizer (see `ids.id_map`).

  Raises:
    FileNotFoundError, ValueError: see `read_config`, `match` and `id_map`.
  """
  folder = epath.Path(folder)
  pretrained = read_config(folder)
  module, _, auto = FAMILIES[pretrained.family]
  tensors = Tensors(folder, auto)
  mapping = module.mapping(pretrained.config)
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
      shards.set_layer(layer, weight.to_ours(tensors.read(names[weight.path, layer])))
    arrays[weight.path] = shards.array()
  return traverse_util.unflatten_dict(arrays, sep='/')


def sid_path(text_path: str) -> str:
  """The SID table beside a text table."""
  return text_path.replace('tables/text', 'tables/sid')
