"""Groups items by SID token."""

import dataclasses

import numpy as np

from recjax.sids.table import SidTable
from recjax.sids.token_space import sid_name


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """The items that have one code at one level.

  Attributes:
    token: name of the code, such as <a_12>.
    level: counted from 0.
    items: item indices, ascending; not empty.
  """

  token: str
  level: int
  items: np.ndarray


def groups(sid_table: SidTable) -> list[Group]:
  """Returns one group per used code of each quantized level, in the order of token ids."""
  found = []
  for level in range(sid_table.quantized_levels):
    codes_I = sid_table.codes_IL[:, level]
    order = np.argsort(codes_I, kind='stable')
    used, first = np.unique(codes_I[order], return_index=True)
    parts = np.split(order, first[1:])
    found += [
      Group(sid_name(level, code), level, items)
      for code, items in zip(used.tolist(), parts, strict=True)
    ]
  return found
