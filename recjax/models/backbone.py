"""Builds a backbone from the model section of the config: its family, its shape and the model."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
from flax import nnx

from recjax.models import families, pretrained
from recjax.models.family import Family
from recjax.models.layers import Computation
from recjax.schema.checks import check
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace


def family(model: Model) -> Family:
  """Returns the family of the folder `pretrained`, of the published `size`, or with the name `family`.

  Raises:
    FileNotFoundError, ValueError: the family or size is unknown, config.json cannot be read, or `model.family`
      contradicts the size or the folder.
  """
  by_name = families.by_name(model.family)
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
  if model.pretrained is not None:
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


def without_source(model: Model) -> Model:
  """Returns a section that builds a trained model although its folder `pretrained` is gone, by its published size.

  Raises:
    FileNotFoundError: the folder is gone and `model.size` is not set.
  """
  source = model.pretrained
  if source is None or ':' in source or epath.Path(source).exists():
    return model
  if not model.size:
    raise FileNotFoundError(
      f'{source} must exist: its config.json gives the shape of the model, which was trained from it. Set '
      '--config.model.pretrained to the folder where it is now'
    )
  return dataclasses.replace(model, pretrained=None)


def start_id(model: Model) -> int:
  """Returns the token that the decoder of an encoder–decoder reads first; 0 for other families."""
  return getattr(shape_of(model), 'start_id', 0)


def check_model(model: Model) -> None:
  """Checks the shape and, if one is set, the checkpoint folder; call it before preparing data.

  Raises:
    FileNotFoundError, ValueError: see `shape_of` and `pretrained.check_folder`.
  """
  shape_of(model)
  if model.pretrained is not None:
    pretrained.check_folder(model.pretrained)


def build(model: Model, space: TokenSpace, seed: int) -> nnx.Module:
  """Returns the backbone with initial values drawn from the seed.

  Raises:
    FileNotFoundError, ValueError: see `shape_of`.
  """
  return family(model).build(shape_of(model), space, nnx.Rngs(params=seed))


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
