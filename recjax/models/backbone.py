"""Builds a backbone from the model section of the config: its family, its shape and the model."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
from flax import nnx
import jax

from recjax.models import families, pretrained
from recjax.models.family import Family
from recjax.models.layers import Computation
from recjax.runtime.files import write_whole
from recjax.schema.checks import check
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace

SHAPE = 'shape.json'  # in the workdir of a run that began with a pretrained model


def family(model: Model) -> Family:
  """Returns the family of the folder `pretrained`, of the published `size`, or with the name `family`.

  Raises:
    FileNotFoundError, ValueError: the family or size is unknown, config.json cannot be read, or `model.family`
      contradicts the size or the folder.
  """
  by_name = families.by_name(model.family)
  if _is_shape(model.pretrained):
    return _saved_shape(model.pretrained)[0]
  if model.pretrained is not None:
    found = pretrained.family_of(model.pretrained)
  elif model.size:
    found = families.by_size(model.size)
  else:
    return by_name
  check(
    families.accepts(model.family, found),
    f'{model.pretrained or model.size} is a model of family {found.name}, and model.family must say so',
    model.family,
    'model.family',
  )
  return found


def shape_of(model: Model) -> Any:
  """Returns the backbone's shape: from the folder `pretrained`, the published `size`, or the size fields.

  Raises:
    FileNotFoundError, ValueError: see `family` and `pretrained.read_config`.
  """
  found = family(model)
  if _is_shape(model.pretrained):
    shape = _saved_shape(model.pretrained)[1]
  elif model.pretrained is not None:
    shape = pretrained.read_config(model.pretrained).config
  elif model.size:
    shape = found.sizes[model.size].shape
  else:
    check(
      found.own_shape is not None,
      f'model.size or model.pretrained must be set for model.family={found.name}',
      model.size,
      'model.size',
    )
    shape = found.own_shape(model)
  names = [field.name for field in dataclasses.fields(Computation)]
  return dataclasses.replace(shape, **{name: getattr(model, name) for name in names})


def without_source(model: Model, workdir: epath.Path) -> Model:
  """Returns a section that builds a trained model although its folder `pretrained` is gone.

  The shape is that of the published size, or else the one that the training saved in the workdir.

  Raises:
    FileNotFoundError: the folder is gone, `model.size` is not set, and an earlier version trained the model.
  """
  source = model.pretrained
  if source is None or ':' in source or epath.Path(source).exists():
    return model
  if model.size:
    return dataclasses.replace(model, pretrained=None)
  if (workdir / SHAPE).exists():
    return dataclasses.replace(model, pretrained=str(workdir / SHAPE))
  raise FileNotFoundError(
    f'{source} must exist: its config.json gives the shape of the model, which was trained from it. Set '
    '--config.model.pretrained to the folder where it is now'
  )


def save_shape(model: Model, workdir: epath.Path) -> None:
  """Writes family and shape of a pretrained model into the workdir of its training; see `without_source`."""
  if model.pretrained is not None:
    found = pretrained.read_config(model.pretrained)
    fields = {'family': found.family.name, 'shape': dataclasses.asdict(found.config)}
    write_whole(workdir / SHAPE, json.dumps(fields, indent=2) + '\n')


def _is_shape(source: str | None) -> bool:
  return source is not None and epath.Path(source).name == SHAPE


def _saved_shape(file: str) -> tuple[Family, Any]:
  """Returns what `save_shape` wrote."""
  try:
    fields = json.loads(epath.Path(file).read_text())
    shape = {name: tuple(x) if isinstance(x, list) else x for name, x in fields['shape'].items()}
    found = families.by_name(fields['family'])
    return found, found.shape(**shape)
  except (ValueError, TypeError, AttributeError, KeyError) as error:
    raise ValueError(
      f'{file} must hold family and shape of the model; it is damaged. Set --config.model.pretrained to the folder '
      'of the checkpoint that the model was trained from'
    ) from error


def start_id(model: Model) -> int:
  """Returns the token that the decoder of an encoder–decoder reads first; 0 for other families."""
  return getattr(shape_of(model), 'start_id', 0)


def check_model(model: Model) -> None:
  """Checks the shape and, if one is set, the checkpoint folder; call it before preparing data.

  Raises:
    FileNotFoundError, ValueError: see `shape_of` and `pretrained.check_folder`.
  """
  shape_of(model)
  if model.pretrained is not None and not _is_shape(model.pretrained):
    pretrained.check_folder(model.pretrained)


def build(model: Model, space: TokenSpace, seed: int) -> nnx.Module:
  """Returns the backbone with initial values drawn from the seed.

  Raises:
    FileNotFoundError, ValueError: see `shape_of`.
  """
  shape = shape_of(model)
  built = family(model).build(shape, space, nnx.Rngs(params=seed))
  if model.item_rows or model.item_head:
    built.tables.add_items(shape.width)
  return built


def hidden(
  built: nnx.Module, batch: dict[str, jax.Array], key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Returns x_BTD, from which each position's target is predicted, and h_BTD, the states that end items."""
  if hasattr(built, 'item_hidden'):
    return built.item_hidden(batch, key)
  x_BTD = built.hidden(batch, key)
  return x_BTD, x_BTD


def graph(model: Model, space: TokenSpace) -> nnx.GraphDef:
  """Returns the structure of the model; `nnx.merge(graph, params)` returns the model."""
  built = nnx.eval_shape(lambda: build(model, space, seed=0))
  return nnx.split(built)[0]


def upgraded(section: Mapping[str, Any], folder: str | None = None) -> dict[str, Any]:
  """Returns a saved model section with the current family name.

  Earlier versions saved Qwen models as family 'gemma'.

  Args:
    section: `model` of a config.json or of a checkpoint's config.
    folder: current folder of the pretrained checkpoint, if it may have moved; None: `pretrained`.
  """
  saved = dict(section)
  folder = folder or saved.get('pretrained')
  found = None
  if saved.get('pretrained') is not None:
    found = pretrained.known_family(folder)
  elif saved.get('size') in families.sizes():
    found = families.by_size(saved['size'])
  if found is not None and families.accepts(saved.get('family', ''), found):
    saved['family'] = found.name
  return saved
