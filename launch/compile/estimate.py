"""Estimates from a compiled program: memory, FLOPs, bytes, and the least time of a step on a chip."""

from collections.abc import Callable, Mapping
import re
from types import MappingProxyType
from typing import Any, NamedTuple

from launch.compile import flops, hlo, traffic
from launch.compile.chips import Chip
from launch.compile.programs import Compiled

AGREEMENT = 0.05  # largest relative difference between the closed form and the count


class Memory(NamedTuple):
  """Bytes of HBM that one chip needs while the program runs.

  Attributes:
    parameters: parameters of the model.
    optimizer: state of the optimizer; also for the search, because it stays in memory during an evaluation in training.
    inputs: the other arguments, and the padding in the layout of all arguments.
    temporary: peak of activations, gathered weights and gradients.
    outputs: outputs that do not reuse the memory of an argument.
    program: code of the program.
  """

  parameters: int
  optimizer: int
  inputs: int
  temporary: int
  outputs: int
  program: int

  @property
  def total(self) -> int:
    return sum(self)


def memory_of(analysis: Any, parameters: int, optimizer: int, is_resident: bool) -> Memory:
  """Splits a program's memory into its parts.

  Args:
    analysis: the result of `jax.stages.Compiled.memory_analysis`.
    parameters: bytes per chip.
    optimizer: bytes per chip.
    is_resident: whether the optimizer is in memory without being an argument.
  """
  arguments = analysis.argument_size_in_bytes
  return Memory(
    parameters=parameters,
    optimizer=optimizer,
    inputs=arguments - parameters - (0 if is_resident else optimizer),
    temporary=analysis.temp_size_in_bytes,
    outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    program=analysis.generated_code_size_in_bytes,
  )


class Roofline(NamedTuple):
  """Seconds of a step that each resource needs at its peak; the longest is a lower bound of the step time.

  Attributes:
    flops: matrix units.
    hbm: traffic between chip and memory.
    ici: traffic to the neighbours over all links.
    dcn: traffic to the other slices; 0 if the bandwidth is not published.
  """

  flops: float
  hbm: float
  ici: float
  dcn: float = 0.0

  @property
  def seconds(self) -> float:
    return max(self)

  @property
  def bound(self) -> str:
    return max(zip(self, ('FLOPs', 'HBM', 'ICI', 'DCN'), strict=True))[1]


def roofline(
  chip: Chip, flops_a_chip: float, hbm_bytes: float, ici_bytes: float, dcn_bytes: float = 0.0
) -> Roofline:
  return Roofline(
    flops_a_chip / chip.flops,
    hbm_bytes / chip.hbm_bandwidth,
    ici_bytes / chip.ici_bandwidth,
    dcn_bytes / chip.dcn_bandwidth if chip.dcn_bandwidth else 0.0,
  )


class Estimate(NamedTuple):
  """The estimate of one program.

  Attributes:
    chip: type of chip.
    chips: number of chips.
    memory: per chip; None if the compiler ran out of memory.
    refusal: the compiler's message in that case.
    counted: FLOPs of the products in the compiled program, over all chips.
    work: FLOPs in closed form; None if there is no closed form.
    collectives: bytes that a chip sends within its slice, by kind.
    roofline: None if the compiler ran out of memory.
    seconds: compilation time.
    dcn: bytes that a chip sends to other slices, by kind.
    transfers: transfers between slices in a step.
  """

  chip: Chip
  chips: int
  memory: Memory | None
  refusal: str
  counted: float
  work: flops.Work | None
  collectives: Mapping[str, int]
  roofline: Roofline | None
  seconds: float
  dcn: Mapping[str, int] = MappingProxyType({})
  transfers: int = 0

  @property
  def fits(self) -> bool:
    return self.memory is not None and self.memory.total <= self.chip.hbm

  @property
  def needed(self) -> float | None:
    """Bytes per chip; taken from the compiler's message if it ran out of memory, None if it has no number."""
    if self.memory is not None:
      return self.memory.total
    match = re.search(r'Used ([\d.]+)([KMG]) of|\(([\d.]+)([KMG])\) exceeds', self.refusal)
    if match is None:
      return None
    number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    return float(number) * 1024 ** ('KMG'.index(unit) + 1)

  @property
  def difference(self) -> float | None:
    """Relative difference of the counted FLOPs from the closed form; None without a closed form."""
    if self.work is None or self.memory is None:
      return None
    return self.counted / self.work.products - 1

  @property
  def flops(self) -> float:
    """FLOPs over all chips, kernels included."""
    return self.counted + (self.work.kernels if self.work else 0)

  @property
  def agrees(self) -> bool:
    return self.difference is None or abs(self.difference) <= AGREEMENT


def estimate(
  compiled: Compiled,
  memory: Memory | None,
  chip: Chip,
  chips: int,
  work_of: Callable[[bool], flops.Work | None],
) -> Estimate:
  """Estimates one compiled program.

  Args:
    compiled: the program.
    memory: see `memory_of`; None if the compiler ran out of memory.
    chip: type of chip.
    chips: number of chips.
    work_of: returns the closed form; its argument says whether the program has attention kernels.
  """
  if memory is None:
    return Estimate(
      chip, chips, None, compiled.refusal, 0.0, work_of(False), {}, None, compiled.seconds
    )
  counted = hlo.flops(compiled.hlo)
  work = work_of(bool(hlo.kernels(compiled.hlo)))
  found = hlo.collectives(compiled.hlo)
  sent, dcn = hlo.bytes_by_kind(found), hlo.bytes_by_kind(found, is_dcn=True)
  transfers = sum(collective.count for collective in found if collective.is_dcn)
  in_kernels = work.kernels / chips if work else 0
  moved = traffic.hbm_bytes(compiled.hlo), sum(sent.values()), sum(dcn.values())
  line = roofline(chip, counted + in_kernels, *moved)
  seconds = compiled.seconds
  return Estimate(
    chip, chips, memory, '', counted * chips, work, sent, line, seconds, dcn, transfers
  )
