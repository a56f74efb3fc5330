"""What an optimised program does: FLOPs of its matrix products and bytes of its collectives, from the HLO text.

`compiled.as_text()` is the program of one device. XLA's own cost analysis counts the body of a loop once; here
it counts as often as it runs.
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

  Attributes:
    kind: one of KINDS. An all-reduce that the TPU compiler fused with the slice of its result is a
      reduce-scatter.
    bytes: that each device sends in one execution, by the algorithm that sends the least (a ring): of
      `payload` over n devices (n - 1) / n for a gather, a reduce-scatter and an all-to-all, twice that for
      an all-reduce, all of it for the others.
    count: executions a run of the program.
    computation: where the instruction stands.
    payload: bytes of the whole array, as gathered, or as it was before it is reduced or cut.
    devices: n, the devices of a group.
    source: the operation of the JAX program that it comes from.
  """

  kind: str
  bytes: int
  count: int
  computation: str
  payload: int
  devices: int
  source: str


def _kind(instruction: Instruction) -> str | None:
  kind = instruction.opcode.removesuffix('-start')
  return kind if kind in KINDS else None


def _group_size(instruction: Instruction, devices: int) -> int:
  """Devices that take part together, from any of the ways that HLO writes it."""
  attributes = instruction.attributes
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
  """Whether it is not the first of the fusions that the TPU compiler spreads one collective over."""
  return 'chain_id=' in instruction.attributes and not any(
    '"AsyncCollectiveStart"' in user.attributes
    for user in computation.instructions.values()
    if instruction.name in user.operands
  )


def collectives(hlo_text: str) -> list[Collective]:
  """The collectives of an optimised HLO module, each with how often it runs.

  An asynchronous pair counts once, a group of a single device not at all, and every branch of a conditional
  counts.

  Args:
    hlo_text: what `jax.stages.Compiled.as_text` returns.

  Raises:
    ValueError: the text is not such a module, or a loop with a collective in it has no trip count that can
      be known.
  """
  program = parse(hlo_text)
  found = []
  for instruction, computation, count in executed(program, lambda i: _kind(i) is not None):
    n = _group_size(instruction, program.devices)
    if n == 1 or not count or _is_repeated(instruction, computation):
      continue
    kind = _kind(instruction)
    operands = computation.operands(instruction)
    if kind == 'collective-permute':  # the others say where its pieces go
      operands = operands[:1]
    payload = sum(shape.bytes for x in operands for shape in x.shapes)
    if kind == 'all-gather':
      payload *= n
    if computation.name.startswith('all-reduce-scatter'):
      kind = 'reduce-scatter'
    factor = {'all-reduce': 2 * (n - 1) / n, 'collective-permute': 1, 'collective-broadcast': 1}
    sent = round(payload * factor.get(kind, (n - 1) / n))
    source = instruction.attribute(r'op_name="([^"]*)"') or ''
    found.append(Collective(kind, sent, count, computation.name, payload, n, source))
  return found


def bytes_by_kind(found: Iterable[Collective]) -> dict[str, int]:
  """Bytes that each device sends in a run of the program, by kind, the most first."""
  total = collections_lib.Counter()
  for collective in found:
    total[collective.kind] += collective.bytes * collective.count
  return dict(total.most_common())


def _dot_flops(instruction: Instruction, computation: Computation) -> int:
  left = computation.operands(instruction)[0].shapes[0]
  summed = instruction.attribute(r'lhs_contracting_dims=\{([\d,]*)\}') or ''
  inner = math.prod(left.sizes[int(i)] for i in summed.split(',') if i)
  return 2 * math.prod(instruction.shapes[0].sizes) * inner


def _pairs(length: int, kernel: int, out: int, window: dict[str, int]) -> int:
  """Pairs of kernel and output positions along one axis that read an element and no padding."""
  at = np.add.outer(
    np.arange(kernel) * window['rhs_dilate'], np.arange(out) * window['stride'] - window['pad']
  )
  index, between = np.divmod(at, window['lhs_dilate'])
  return int(np.sum((between == 0) & (index >= 0) & (index < length)))


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
  """The TPU compiler makes convolutions of matrix products; batch axes become windows."""
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
    of_axis = {name: along(int(axis), name, default) for name, default in defaults.items()}
    pairs *= _pairs(left[axis], kernel[axis], out[axis], of_axis)
  groups = int(instruction.attribute(r'batch_group_count=(\d+)') or 1)
  return 2 * pairs * kernel['i'] * kernel['o'] * (left['b'] // groups)


def flops(hlo_text: str) -> float:
  """Floating-point operations of one device's matrix products in an optimised HLO module.

  A product of [m, k] and [k, n] counts 2 m k n, also where it was made into a convolution; what is computed
  again under rematerialisation counts again. Elementwise operations are left out, and so are the products
  inside hand-written kernels: see `kernels`.

  Args:
    hlo_text: what `jax.stages.Compiled.as_text` returns.

  Raises:
    ValueError: as `collectives`, of a loop with a product in it.
  """
  program = parse(hlo_text)
  of_opcode = {'dot': _dot_flops, 'convolution': _convolution_flops}
  return float(
    sum(
      count * of_opcode[instruction.opcode](instruction, computation)
      for instruction, computation, count in executed(program, lambda i: i.opcode in of_opcode)
    )
  )


def kernels(hlo_text: str) -> dict[str, int]:
  """Hand-written (Pallas) kernels by name, and how often each runs; `flops` cannot see into them."""
  total = collections_lib.Counter()
  program = parse(hlo_text)
  for instruction, _, count in executed(program, lambda i: bool(i.attribute(PALLAS))):
    total[re.sub(r'[.\d]+$', '', instruction.name)] += count
  return dict(total)
