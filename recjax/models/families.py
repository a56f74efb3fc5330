"""The registry of backbone families. To add one, write its module and mapping, and list its record here."""

from collections.abc import Mapping

from recjax.models import gemma, item_decoder, llama, qwen, qwen3_5, sasrec, t5
from recjax.models.family import Family, Size
from recjax.schema.checks import check_choice

_ALL = (gemma, llama, qwen, qwen3_5, t5, sasrec, item_decoder)
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _ALL}


def by_name(name: str) -> Family:
  """Returns the family with a name. Raises a ValueError for an unknown name."""
  check_choice(name, tuple(FAMILIES), 'model.family')
  return FAMILIES[name]


def sizes() -> dict[str, Size]:
  """Returns every published size by name."""
  return {name: size for family in FAMILIES.values() for name, size in family.sizes.items()}


def by_size(size: str) -> Family:
  """Returns the family of a published size. Raises a ValueError for an unknown size."""
  check_choice(size, tuple(sizes()), 'model.size')
  return next(family for family in FAMILIES.values() if size in family.sizes)


def accepts(name: str, family: Family) -> bool:
  """Returns whether `model.family=name` is accepted for a size or a checkpoint of `family`.

  Earlier versions configured Qwen models as family 'gemma', the default, which is still accepted.
  """
  return name == family.name or (name == gemma.FAMILY.name and family is qwen.FAMILY)


def model_types() -> Mapping[str, Family]:
  """Returns the family by `model_type`, for every `model_type` that can be read."""
  return {
    kind: family
    for family in FAMILIES.values()
    if family.checkpoints
    for kind in family.checkpoints.model_types
  }
