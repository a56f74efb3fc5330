"""What a compiled program asks of a chip: memory, FLOPs, bytes, and the least time that a step can take."""

from collections.abc import Callable, Mapping
import re
from typing import Any, NamedTuple

from launch.compile import flops, hlo, traffic
from launch.compile.chips import Chip
from launch.compile.programs import Compiled

AGREEMENT = 0.05  # closed form and count may differ by so much


class Memory(NamedTuple):
  """Bytes of HBM that one chip needs while the program runs.

  Attributes:
    parameters, optimizer: of the state; those of the optimizer also where the program does not read them
      but training keeps them.
    inputs: the other arguments, and what the layout of all of them adds.
    temporary: activations, gathered weights, gradients: the most that lies there at once.
    outputs: those that do not take the place of an argument.
    program: its code.
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
  """The parts of a program's memory.

  Args:
    analysis: of `jax.stages.Compiled.memory_analysis`.
    parameters: bytes a chip.
    optimizer: bytes a chip.
    is_resident: the optimizer is not an argument, but lies there.
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
  """The seconds that each resource needs at its peak; a step takes at least the longest of them.

  Attributes:
    flops: of the matrix units.
    hbm: between chip and memory.
    ici: to the neighbours, over all links at once.
  """

  flops: float
  hbm: float
  ici: float

  @property
  def seconds(self) -> float:
    return max(self)

  @property
  def bound(self) -> str:
    return max(zip(self, ('FLOPs', 'HBM', 'ICI'), strict=True))[1]


def roofline(chip: Chip, flops_a_chip: float, hbm_bytes: float, ici_bytes: float) -> Roofline:
  return Roofline(
    flops_a_chip / chip.flops, hbm_bytes / chip.hbm_bandwidth, ici_bytes / chip.ici_bandwidth
  )


class Estimate(NamedTuple):
  """Of one program.

  Attributes:
    chip: what it runs on.
    chips: how many.
    memory: of a chip; None where the compiler found no room.
    refusal: what it said then.
    counted: FLOPs of the products in the compiled program, over all chips.
    work: the closed form, None where there is none.
    collectives: bytes that a chip sends, by kind.
    roofline: None where the compiler found no room.
    seconds: that compiling took.
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

  @property
  def fits(self) -> bool:
    return self.memory is not None and self.memory.total <= self.chip.hbm

  @property
  def needed(self) -> float | None:
    """Bytes a chip; where the compiler found no room, from what it said."""
    if self.memory is not None:
      return self.memory.total
    said = re.search(r'Used ([\d.]+)([KMG]) of|\(([\d.]+)([KMG])\) exceeds', self.refusal)
    if said is None:
      return None
    number, unit = (said[1], said[2]) if said[1] else (said[3], said[4])
    return float(number) * 1024 ** ('KMG'.index(unit) + 1)

  @property
  def difference(self) -> float | None:
    """How much more was counted than the closed form says, as a share of it."""
    if self.work is None or self.memory is None:
      return None
    return self.counted / self.work.products - 1

  @property
  def flops(self) -> float:
    """Over all chips, with the kernels."""
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
  """Reads a compiled program.

  Args:
    compiled: it.
    memory: see `memory_of`.
    chip: what it runs on.
    chips: how many.
    work_of: a function from whether there are attention kernels to the closed form.
  """
  if memory is None:
    return Estimate(
      chip, chips, None, compiled.refusal, 0.0, work_of(False), {}, None, compiled.seconds
    )
  counted = hlo.flops(compiled.hlo)
  work = work_of(bool(hlo.kernels(compiled.hlo)))
  sent = hlo.bytes_by_kind(hlo.collectives(compiled.hlo))
  in_kernels = work.kernels / chips if work else 0
  line = roofline(chip, counted + in_kernels, traffic.hbm_bytes(compiled.hlo), sum(sent.values()))
  return Estimate(chip, chips, memory, '', counted * chips, work, sent, line, compiled.seconds)
