"""What a TPU chip has: memory, peak FLOP/s, bandwidths.

Sources: Google Cloud's pages of the generations (docs.cloud.google.com/tpu/docs/v4, v5e, v5p-training and v6e:
peak compute in bfloat16, HBM bandwidth, inter-chip interconnect a chip). That interconnect figure is given
in bits, or as a bidirectional figure in bytes: here it is what a chip can send, all links together. `hbm`
is not on those pages: it is what the compiler (libtpu 0.0.42) says a program can have, a little less
than the nominal 32, 16, 95 and 32 GB.
"""

from typing import NamedTuple

GIB = 1 << 30


class Chip(NamedTuple):
  """One chip.

  Attributes:
    hbm: bytes that a program can have.
    flops: dense bfloat16 FLOP/s of the matrix units. float32 products run on them too, in one pass of
      bfloat16 with JAX's default precision.
    hbm_bandwidth: bytes/s.
    ici_bandwidth: bytes/s that the chip can send to its neighbours, all links together.
  """

  name: str
  hbm: float
  flops: float
  hbm_bandwidth: float
  ici_bandwidth: float


CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 30.75 * GIB, 275e12, 1228e9, 300e9),
    Chip('v5e', 15.75 * GIB, 197e12, 819e9, 200e9),
    Chip('v5p', 95.74 * GIB, 459e12, 2765e9, 600e9),
    Chip('v6e', 31.25 * GIB, 918e12, 1640e9, 400e9),
  )
}


def chip_of(topology: str) -> Chip:
  """The chip of a topology such as 'v5e:16x16'.

  Raises:
    ValueError: no such generation, or no shape.
  """
  generation, _, shape = topology.partition(':')
  if generation not in CHIPS or not all(n.isdigit() for n in shape.split('x')):
    raise ValueError(
      f'the topology must be one of {", ".join(CHIPS)} with the shape of the slice, such as v5e:16x16 or '
      f'v5p:4x4x4; got {topology!r}. Set --topology'
    )
  return CHIPS[generation]
