"""What a mapping table is made of: one rule for each tensor of a Hugging Face checkpoint, used both ways."""

from collections.abc import Callable
import dataclasses

import numpy as np


def _same(array: np.ndarray) -> np.ndarray:
  return array


@dataclasses.dataclass(frozen=True)
class Weight:
  """One tensor, or one tensor a layer.

  Attributes:
    name: in the checkpoint; '{layer}' stands for the layer's number.
    path: of our parameter, 'a/b/c' in the pure dict of the model.
    layers: how many layers the name stands for; our parameter stacks them on axis 0. 0: one tensor.
    to_ours: from the checkpoint's array (of one layer) to ours.
    to_theirs: the inverse; both only move elements, so that a round trip is bit-identical.
    aliases: names under which a checkpoint may hold the same tensor again; read only where `name` is
      absent, and never written.
    vocabulary: whether axis 0 counts token ids, so that our rows and theirs differ in number and order.
  """

  name: str
  path: str
  layers: int = 0
  to_ours: Callable[[np.ndarray], np.ndarray] = _same
  to_theirs: Callable[[np.ndarray], np.ndarray] = _same
  aliases: tuple[str, ...] = ()
  vocabulary: bool = False

  def __post_init__(self):
    for name in (self.name, *self.aliases):
      if ('{layer}' in name) != (self.layers > 0):
        raise ValueError(
          f"a weight's name must hold '{{layer}}' where it stands for layers, and only there; got "
          f'{name!r} for {self.layers} layers'
        )

  def names(self, layer: int | None = None) -> tuple[str, ...]:
    """The name and its aliases, for one layer where there are layers."""
    return tuple(name.replace('{layer}', str(layer)) for name in (self.name, *self.aliases))


@dataclasses.dataclass(frozen=True)
class Mapping:
  """The table of a family, for one configuration of it.

  Attributes:
    weights: every parameter of ours but the SID tables, each once.
    ignored: regular expressions of whole names that a checkpoint may hold and that we do not need.
  """

  weights: tuple[Weight, ...]
  ignored: tuple[str, ...] = ()


def linear(name: str, path: str, layers: int) -> Weight:
  """A PyTorch Linear, stored `[out, in]`, as our kernel `[in, out]`."""
  return Weight(name, path, layers, np.transpose, np.transpose)


def heads_in(name: str, path: str, layers: int, heads: int, head_width: int) -> Weight:
  """A projection to heads: theirs `[N * H, D]`, ours `[D, N, H]`."""
  return Weight(
    name,
    path,
    layers,
    lambda x: x.T.reshape(-1, heads, head_width),
    lambda x: x.reshape(-1, heads * head_width).T,
  )


def heads_out(name: str, path: str, layers: int, heads: int, head_width: int) -> Weight:
  """A projection from heads: theirs `[D, N * H]`, ours `[N, H, D]`."""
  return Weight(
    name,
    path,
    layers,
    lambda x: x.T.reshape(heads, head_width, -1),
    lambda x: x.reshape(heads * head_width, -1).T,
  )
