"""The config sections of the training stream: mixing, packing, loading."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing(Section):
  """How the weights of the mixture become shares of the examples."""

  prefix: ClassVar = 'mixing.'

  by: str = setting(
    'weight',
    'Shares in proportion to the weights, or with size to weights times task sizes.',
    one_of=('weight', 'size'),
  )
  temperature: float = setting(
    1.0, 'With size: task sizes are raised to 1 / temperature (T5, section 3.5.2).', at_least=0.05
  )

  def size_factor(self, units: int) -> float:
    """Returns the factor on the weight of a component with this many units."""
    return units ** (1 / self.temperature) if self.by == 'size' else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing(Section):
  """Packing of a fixed number of consecutive examples into a fixed number of rows."""

  prefix: ClassVar = 'packing.'

  row_length: int | None = setting(
    128,
    'Tokens of a row (T); for an encoder–decoder, of an encoder row. None: from the lengths of examples, so '
    'that the longest one fits, at most 1024.',
    above=0,
  )
  decoder_row_length: int | None = setting(
    32,
    'Encoder–decoder only: tokens of a decoder row. None: room for the targets of the inputs in a row.',
    above=0,
  )
  rows: int | None = setting(
    32,
    'Rows of one packing group (R); batch_size must be a multiple of it. None: the rows of a host, at most 64.',
    above=0,
  )
  examples: int | None = setting(
    None,
    'Examples of one packing group (W). None: estimated once from the lengths of examples.',
    above=0,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader(Section):
  """Reading batches ahead of the training step."""

  prefix: ClassVar = 'loader.'

  threads: int = setting(1, 'Reading threads of a host; with workers, of each worker.', above=0)
  workers: int = setting(0, 'Reading processes of a host. 0: threads of the run.', at_least=0)
  buffer: int = setting(4, 'Batches prefetched on a host; with workers, by each worker.', above=0)
  device_buffer: int = setting(1, 'Batches prefetched to the devices.', at_least=0)
