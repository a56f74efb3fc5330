"""From the model section of the config to a backbone: its family, its shape and the model itself."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx

from recjax.models import families, pretrained
from recjax.models.family import Family
from recjax.models.layers import Computation
from recjax.schema.checks import check
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace


def family(model: Model) -> Family:
  """Returns the family of the published `size`, of the folder `pretrained`, or of the name `family`.

  Raises:
    FileNotFoundError, ValueError: an unknown family or size, an unreadable config.json, or `model.family`
      names another family than the size or the folder.
  """
  named = families.named(model.family)
  if model.pretrained is not None:
    found = pretrained.family_of(model.pretrained)
  elif model.size:
    found = families.of_size(model.size)
  else:
    return named
  check(
    families.accepts(model.family, found),
    f'{model.pretrained or model.size} is a model of family {found.name}, and model.family must say so',
    model.family,
    'model.family',
  )
  return found


def shape_of(model: Model) -> Any:
  """Returns the backbone's shape: of the folder `pretrained`, of the published `size`, or of the fields.

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


def start_id(model: Model) -> int:
  """Returns the token that the decoder of an encoder–decoder reads first; 0 for other families."""
  return getattr(shape_of(model), 'start_id', 0)


def check_model(model: Model) -> None:
  """Checks the shape, and the checkpoint folder if one is set, before a run spends time.

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
  """Returns a saved model section with today's family name.

  Earlier versions saved Qwen models as family 'gemma'.

  Args:
    section: `model` of a config.json or of a checkpoint's config.
    folder: where the checkpoint lies now, if it may have moved; None: at `pretrained`.
  """
  saved = dict(section)
  folder = folder or saved.get('pretrained')
  found = None
  if saved.get('pretrained') is not None:
    found = pretrained.known_family(folder)
  elif saved.get('size') in families.sizes():
    found = families.of_size(saved['size'])
  if found is not None and families.accepts(saved.get('family', ''), found):
    saved['family'] = found.name
  return saved
