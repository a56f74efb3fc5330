"""Accelerators: memory, peak FLOP/s and bandwidths of TPU chips, peak FLOP/s of GPUs.

Sources: Google Cloud's pages on TPU generations (docs.cloud.google.com/tpu/docs/v4, v5e, v5p-training and v6e):
peak compute in bfloat16, HBM bandwidth, inter-chip interconnect per chip. The pages give the interconnect in
bits, or in bytes for both directions; here it is the bytes/s that a chip can send over all links. The network of
the data centre is that of a chip (v5p: 50 Gbps), or of a pod of 256 chips (v5e: 6.4 Tbps, v6e: 25.6 Tbps). `hbm` is
reported by the compiler (libtpu 0.0.42) as available to a program: a little less than the nominal 32, 16, 95
and 32 GB. GPUs: NVIDIA's data sheets (SXM unless the name says otherwise, without sparsity).
"""

from typing import NamedTuple

GIB = 1 << 30


class Chip(NamedTuple):
  """One TPU chip.

  Attributes:
    name: the generation, as in a topology.
    kind: JAX's `device_kind` starts with it.
    hbm: bytes available to a program.
    flops: dense bfloat16 FLOP/s of the matrix units. With JAX's default precision, float32 products run
      there too, in one bfloat16 pass.
    hbm_bandwidth: bytes/s.
    ici_bandwidth: bytes/s that the chip can send to its neighbours over all links.
    dcn_bandwidth: bytes/s of the chip's share of the data-centre network, between slices; None: not published.
  """

  name: str
  kind: str
  hbm: float
  flops: float
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float | None


CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 'TPU v4', 30.75 * GIB, 275e12, 1228e9, 300e9, None),
    Chip('v5e', 'TPU v5 lite', 15.75 * GIB, 197e12, 819e9, 200e9, 6.4e12 / 8 / 256),
    Chip('v5p', 'TPU v5', 95.74 * GIB, 459e12, 2765e9, 600e9, 50e9 / 8),
    Chip('v6e', 'TPU v6 lite', 31.25 * GIB, 918e12, 1640e9, 400e9, 25.6e12 / 8 / 256),
  )
}
_GPU_FLOPS = {
  'H200 NVL': 835e12,
  'H100 NVL': 835e12,
  'H100 PCIe': 756e12,
  'H200': 989e12,
  'H100': 989e12,
  'A100': 312e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns the dense bfloat16 FLOP/s of an accelerator; None if it is not known here.

  Args:
    device_kind: `device_kind` of a JAX device. The first known name that it contains is used.
  """
  flops = _GPU_FLOPS | {chip.kind: chip.flops for chip in CHIPS.values()}
  return next((flops[name] for name in flops if name in device_kind), None)


def chip_of(topology: str) -> Chip:
  """Returns the chip of a topology such as 'v5e:16x16'.

  Raises:
    ValueError: the generation is unknown, or the shape is missing.
  """
  generation, _, shape = topology.partition(':')
  if generation not in CHIPS or not all(n.isdigit() for n in shape.split('x')):
    raise ValueError(
      f'the topology must be one of {", ".join(CHIPS)} and the shape of the slice, such as v5e:16x16 or '
      f'v5p:4x4x4; got {topology!r}. Set --topology'
    )
  return CHIPS[generation]
