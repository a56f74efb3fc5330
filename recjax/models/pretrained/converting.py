"""Converts the tensors of an exported folder to our parameters inside a jitted function."""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import jax.numpy as jnp

from recjax.models.mappings.weights import WeightMapping
from recjax.models.pretrained.config_file import read_config
from recjax.models.pretrained.ids import id_map
from recjax.models.pretrained.reading import abstract, layers_of, match, sid_path
from recjax.models.pretrained.tensors import Tensors
from recjax.sids.token_space import TokenSpace


def held(mapping: WeightMapping) -> set[str]:
  """Returns the paths of our parameters that a checkpoint folder holds."""
  tables = {sid_path(weight.path) for weight in mapping.weights if weight.vocabulary}
  return {weight.path for weight in mapping.weights} | tables


def converter(
  folder: epath.PathLike, space: TokenSpace
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[Mapping[str, Any]], dict[str, Any]]]:
  """Returns the tensors of an export of ours by name, and the function from them to float32 parameters by path.

  Args:
    folder: of `writing.export`.
    space: our token ids.

  Raises:
    FileNotFoundError, ValueError: see `reading.load`.
  """
  folder = epath.Path(folder)
  found, tensors = read_config(folder), Tensors(folder)
  mapping = found.family.checkpoints.mapping(found.config)
  flat = traverse_util.flatten_dict(abstract(found, space)[1], sep='/')
  names = match(mapping, tensors, flat, found.vocab_rows)
  ids, is_exported = id_map(folder, space, None, found.vocab_rows)
  rows = ids.sources(is_exported, found.vocab_rows)

  def convert(values: Mapping[str, Any]) -> dict[str, Any]:
    params = {}
    for weight in mapping.weights:
      parts = [values[names[weight.path, n]].astype(jnp.float32) for n in layers_of(weight)]
      if weight.vocabulary:
        paths = (weight.path, sid_path(weight.path))
        params |= {
          path: jnp.where(source[:, None] >= 0, parts[0][jnp.maximum(source, 0)], 0)
          for path, source in zip(paths, rows, strict=True)
        }
      else:
        parts = [weight.to_ours(part) for part in parts]
        params[weight.path] = jnp.stack(parts) if weight.layers else parts[0]
    return params

  infos = {name: tensors.infos[name] for name in names.values()}
  shapes = {name: jax.ShapeDtypeStruct(i.shape, i.dtype) for name, i in infos.items()}
  return shapes, convert
