"""Counts the FLOPs of matrix products and the bytes of collectives in the HLO text of an optimised program.

`compiled.as_text()` is the program of one device. XLA's own cost analysis counts the body of a loop once; this
module multiplies it by the trip count.
"""

import collections as collections_lib
from collections.abc import Iterable
import math
import re
from typing import NamedTuple

import numpy as np

from launch.compile.hlo_text import Computation, Instruction, executed, parse

KINDS = (
  'all-gather',
  'reduce-scatter',
  'all-reduce',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
PALLAS = r'custom_call_target="(tpu_custom_call|__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)"'


class Collective(NamedTuple):
  """One collective instruction.

  On several slices the TPU compiler splits a collective that spans them: into collectives within each slice, and into
  transfers of the parts between slices, which the runtime (megascale) does over the data-centre network.

  Attributes:
    kind: one of KINDS. An all-reduce that the TPU compiler fused with a slice of its result counts as a
      reduce-scatter.
    bytes: bytes that each device sends in one execution, with the algorithm that sends the least (a ring). With n
      devices this is (n - 1) / n of `payload` for an all-gather, a reduce-scatter and an all-to-all, twice
      that for an all-reduce, and `payload` for the other kinds.
    count: executions in a run of the program.
    computation: name of the computation that holds the instruction.
    payload: bytes of the whole array: after gathering, or before reducing or scattering.
    devices: n, the devices of a group; for a transfer between slices, one device of each slice.
    source: the operation of the JAX program.
    is_dcn: whether it is a transfer between slices.
  """

  kind: str
  bytes: int
  count: int
  computation: str
  payload: int
  devices: int
  source: str
  is_dcn: bool = False


_MEGASCALE = r'_xla_megascale_transfer_type="(\w+)"'
_MEGASCALE_TARGET = r'_xla_megascale_target="\{([\d,]+)\}'  # {slices}x{devices of each}
_MEGASCALE_KINDS = {'one-to-one': 'collective-permute'}


def _kind(instruction: Instruction) -> str | None:
  if instruction.opcode == 'send':
    transfer = instruction.attribute(_MEGASCALE)
    kind = transfer and transfer.lower().replace('_', '-')
    return _MEGASCALE_KINDS.get(kind, kind)
  kind = instruction.opcode.removesuffix('-start')
  return kind if kind in KINDS else None


def _group_size(instruction: Instruction, devices: int) -> int:
  """Returns the number of devices in a group; HLO has several notations for it."""
  attributes = instruction.attributes
  slices = instruction.attribute(_MEGASCALE_TARGET)
  if slices:
    return slices.count(',') + 1
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', attributes)
  if mesh:
    sizes = {axis: int(n) for axis, n in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'x':(1)2: two devices of axis x
    return math.prod(int(part) if part else sizes[axis] for axis, part in named)
  listed = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
  if listed:
    return listed[1].count(',') + 1
  counted = re.search(r'replica_groups=\[\d+,(\d+)\]', attributes)  # [groups, size]<=[devices]
  return int(counted[1]) if counted else devices


def _is_repeated(instruction: Instruction, computation: Computation) -> bool:
  """Returns whether the instruction continues a collective that the compiler spread over several fusions."""
  return 'chain_id=' in instruction.attributes and not any(
    '"AsyncCollectiveStart"' in user.attributes
    for user in computation.instructions.values()
    if instruction.name in user.operands
  )


def collectives(hlo_text: str) -> list[Collective]:
  """Returns the collectives of an optimised HLO module.

  An asynchronous pair counts once. Groups of one device are ignored. Of a conditional one branch counts (`hlo_text.executed`).

  Args:
    hlo_text: the result of `jax.stages.Compiled.as_text`.

  Raises:
    ValueError: the text is no HLO module, or the trip count of a loop with a collective is unknown.
  """
  program = parse(hlo_text)
  found = []
  for instruction, computation, count in executed(program, lambda i: _kind(i) is not None):
    n = _group_size(instruction, program.devices)
    if n == 1 or not count or _is_repeated(instruction, computation):
      continue
    kind = _kind(instruction)
    operands = computation.operands(instruction)
    if kind == 'collective-permute' or instruction.opcode == 'send':
      operands = operands[:1]  # the others are offsets, or a token
    payload = sum(shape.bytes for x in operands for shape in x.shapes)
    if kind == 'all-gather':
      payload *= n
    if computation.name.startswith('all-reduce-scatter'):
      kind = 'reduce-scatter'
    factor = {'all-reduce': 2 * (n - 1) / n, 'collective-permute': 1, 'collective-broadcast': 1}
    sent = round(payload * factor.get(kind, (n - 1) / n))
    source = instruction.attribute(r'op_name="([^"]*)"') or ''
    is_dcn = instruction.opcode == 'send'
    found.append(Collective(kind, sent, count, computation.name, payload, n, source, is_dcn))
  return found


def bytes_by_kind(found: Iterable[Collective], is_dcn: bool = False) -> dict[str, int]:
  """Returns the bytes that each device sends in a run of the program, by kind in descending order.

  Args:
    found: the collectives of the program.
    is_dcn: whether to count the transfers between slices instead of those within a slice.
  """
  total = collections_lib.Counter()
  for collective in found:
    if collective.is_dcn == is_dcn:
      total[collective.kind] += collective.bytes * collective.count
  return dict(total.most_common())


def _dot_flops(instruction: Instruction, computation: Computation) -> int:
  left = computation.operands(instruction)[0].shapes[0]
  summed = instruction.attribute(r'lhs_contracting_dims=\{([\d,]*)\}') or ''
  inner = math.prod(left.sizes[int(i)] for i in summed.split(',') if i)
  return 2 * math.prod(instruction.shapes[0].sizes) * inner


def _pairs(length: int, kernel: int, out: int, window: dict[str, int]) -> int:
  """Counts the pairs of kernel and output positions along one axis that do not read padding."""
  at = np.add.outer(
    np.arange(kernel) * window['rhs_dilate'], np.arange(out) * window['stride'] - window['pad']
  )
  index, between = np.divmod(at, window['lhs_dilate'])
  return int(np.sum((between == 0) & (index >= 0) & (index < length)))


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
  """The TPU compiler turns matrix products into convolutions, and batch axes into windows."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes).groups()
  operands = computation.operands(instruction)
  left, kernel, out = (
    dict(zip(names, x.shapes[0].sizes, strict=True))
    for names, x in zip(labels, (*operands[:2], instruction), strict=True)
  )
  window = instruction.attribute(r'window=\{([^}]*)\}') or ''

  def along(axis: int, name: str, default: int) -> int:
    values = re.search(rf'\b{name}=(\S+)', window)
    return int(values[1].split('x')[axis].split('_')[0]) if values else default

  pairs = 1
  for axis in map(str, range(len(left) - 2)):
    defaults = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}
    axis_window = {name: along(int(axis), name, default) for name, default in defaults.items()}
    pairs *= _pairs(left[axis], kernel[axis], out[axis], axis_window)
  groups = int(instruction.attribute(r'batch_group_count=(\d+)') or 1)
  return 2 * pairs * kernel['i'] * kernel['o'] * (left['b'] // groups)


def flops(hlo_text: str) -> float:
  """Returns the FLOPs of one device's matrix products in an optimised HLO module.

  A product of [m, k] and [k, n] counts 2 m k n, also as a convolution. Recomputation counts. Elementwise
  operations and products inside hand-written kernels (see `kernels`) do not.

  Args:
    hlo_text: the result of `jax.stages.Compiled.as_text`.

  Raises:
    ValueError: the text is no HLO module, or the trip count of a loop with a product is unknown.
  """
  program = parse(hlo_text)
  flops_by_opcode = {'dot': _dot_flops, 'convolution': _convolution_flops}
  return float(
    sum(
      count * flops_by_opcode[instruction.opcode](instruction, computation)
      for instruction, computation, count in executed(
        program, lambda i: i.opcode in flops_by_opcode
      )
    )
  )


def kernels(hlo_text: str) -> dict[str, int]:
  """Returns the executions of hand-written (Pallas) kernels by name; `flops` does not count their products."""
  total = collections_lib.Counter()
  program = parse(hlo_text)
  for instruction, _, count in executed(program, lambda i: bool(i.attribute(PALLAS))):
    total[re.sub(r'[.\d]+$', '', instruction.name)] += count
  return dict(total)
