"""The record of a backbone family, the interface between a family and the rest of recjax."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import nnx

from recjax.models.mappings.weights import CheckpointFormat
from recjax.schema.model import Model
from recjax.sharding import rules
from recjax.sids.token_space import TokenSpace


class Size(NamedTuple):
  """A published size.

  Attributes:
    shape: the family's shape, computation fields at their defaults.
    vocab_rows: rows of the published token table; the tokenizer may have fewer tokens.
    tokenizer_size: tokens of the published tokenizer, if a run from scratch needs only these; 0: `vocab_rows`.
  """

  shape: Any
  vocab_rows: int
  tokenizer_size: int = 0


class SpecialToken(NamedTuple):
  """A family's default special token: its name in the tokenizer and its id in published checkpoints."""

  name: str
  id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A backbone family.

  The built model offers `tables` (`recjax.models.embedding.TokenTables`), `hidden(batch, key)` for training,
  and `start(prompts, beams, suffix_length)` and `step(tokens, step, cache)` for the search; the cache offers
  `choose_beams`. The state that ends an item is the one that predicts the next item's first code. A family in which
  they differ also offers `item_hidden(batch, key)`, the states of `hidden` and those that end items, and
  `item_state_BD` of the cache.

  Attributes:
    name: value of `model.family`.
    shape: class of the shapes, a subclass of `recjax.models.layers.Computation`.
    build: (shape, token space, rngs) → the model.
    own_shape: (model section) → the shape given by its size fields; None: only sizes and checkpoints.
    sizes: published sizes by name.
    checkpoints: how checkpoint folders are read and written; None: the family has none.
    is_encoder_decoder: whether inputs and targets go to different stacks; otherwise they are one sequence.
    reads_items_alone: whether examples are whole semantic IDs, and masks as long as one, after one special token.
    parameter_rules: how the mesh shards the parameters.
    bos, eos, pad: defaults for folders whose files do not name the token. Without BOS, a decoder's prompt
      begins with EOS.
  """

  name: str
  shape: type
  build: Callable[[Any, TokenSpace, nnx.Rngs], nnx.Module]
  own_shape: Callable[[Model], Any] | None = None
  sizes: Mapping[str, Size] = dataclasses.field(default_factory=dict)
  checkpoints: CheckpointFormat | None = None
  is_encoder_decoder: bool = False
  reads_items_alone: bool = False
  parameter_rules: rules.Rules = rules.PARAMETER_RULES
  bos: SpecialToken | None = None
  eos: SpecialToken | None = None
  pad: SpecialToken | None = None
