"""Classes of a mapping: one rule per tensor of a `transformers` checkpoint, used in both directions."""

from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any

import numpy as np


def _same(array: np.ndarray) -> np.ndarray:
  return array


@dataclasses.dataclass(frozen=True)
class Weight:
  """One tensor, or one tensor for each layer.

  Attributes:
    name: name in the checkpoint; '{layer}' is replaced by the layer's number.
    path: path of our parameter, 'a/b/c' in the pure dict of the model.
    layers: number of layers; our parameter stacks them on axis 0. 0: a single tensor.
    to_ours: converts the checkpoint's array (of one layer) to ours; of numpy, or of jax inside a jitted function.
    to_theirs: the inverse. Both only move elements, so that a round trip is bit-identical.
    aliases: other names of the same tensor; read only if `name` is absent, never written.
    vocabulary: whether axis 0 is token ids; our rows and theirs then differ in number and order.
    numbers: the checkpoint's numbers of our stacked layers; empty: 0 to `layers` − 1.
  """

  name: str
  path: str
  layers: int = 0
  to_ours: Callable[[np.ndarray], np.ndarray] = _same
  to_theirs: Callable[[np.ndarray], np.ndarray] = _same
  aliases: tuple[str, ...] = ()
  vocabulary: bool = False
  numbers: tuple[int, ...] = ()

  def __post_init__(self):
    for name in (self.name, *self.aliases):
      if ('{layer}' in name) != (self.layers > 0):
        raise ValueError(
          f"a weight's name must hold '{{layer}}' if and only if it stands for layers; got {name!r} for "
          f'{self.layers} layers'
        )

  def names(self, layer: int | None = None) -> tuple[str, ...]:
    """Returns the name and its aliases; the number of the stacked `layer` replaces '{layer}'."""
    number = self.numbers[layer] if self.numbers else layer
    return tuple(name.replace('{layer}', str(number)) for name in (self.name, *self.aliases))


@dataclasses.dataclass(frozen=True)
class WeightMapping:
  """The rules for one shape of a family.

  Attributes:
    weights: every parameter of ours except the SID tables, each once.
    ignored: regular expressions that match full names of tensors that a checkpoint may hold and we skip.
  """

  weights: tuple[Weight, ...]
  ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
  """How a family's checkpoints are read and written.

  Attributes:
    architectures: `model_type` of config.json → class name that an export writes into config.json.
    auto: the class of `transformers` that loads such a folder.
    config_of: (config.json, names of the tensors) → the model's shape, computation fields at their defaults.
    mapping: shape → WeightMapping.
    hf_of: shape → the fields of config.json that describe it, without the vocabulary; the inverse of `config_of`.
    multimodal: `model_type` of folders whose config.json nests the text model's under `text_config`.
    text_config: config.json → the text model's config.json, absent fields filled in.
  """

  architectures: Mapping[str, str]
  auto: str
  config_of: Callable[[dict[str, Any], Collection[str]], Any]
  mapping: Callable[[Any], WeightMapping]
  hf_of: Callable[[Any], dict[str, Any]]
  multimodal: tuple[str, ...] = ()
  text_config: Callable[[dict[str, Any]], dict[str, Any]] = lambda hf: hf

  @property
  def model_types(self) -> tuple[str, ...]:
    """Every `model_type` that is read."""
    return (*self.architectures, *self.multimodal)


def linear(name: str, path: str, layers: int) -> Weight:
  """Returns the rule for a PyTorch Linear: theirs `[out, in]`, ours `[in, out]`."""
  return Weight(name, path, layers, np.transpose, np.transpose)


def heads_in(name: str, path: str, layers: int, heads: int, head_width: int) -> Weight:
  """Returns the rule for a projection to heads: theirs `[N * H, D]`, ours `[D, N, H]`."""
  return Weight(
    name,
    path,
    layers,
    lambda x: x.T.reshape(-1, heads, head_width),
    lambda x: x.reshape(-1, heads * head_width).T,
  )


def heads_out(name: str, path: str, layers: int, heads: int, head_width: int) -> Weight:
  """Returns the rule for a projection from heads: theirs `[D, N * H]`, ours `[N, H, D]`."""
  return Weight(
    name,
    path,
    layers,
    lambda x: x.T.reshape(heads, head_width, -1),
    lambda x: x.reshape(heads * head_width, -1).T,
  )
