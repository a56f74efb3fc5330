"""Parses the text of an optimised HLO module, and counts the executions of its instructions."""

from collections.abc import Callable, Iterable, Iterator
import itertools
import math
import operator
import re
from typing import Any, NamedTuple

_BITS = {'pred': 8, 'bf16': 16, 'c64': 64, 'c128': 128, 'token': 0, 'opaque': 0}
_MAX_TRIPS = 1 << 16  # limit for loops whose trip count is found by executing their counter
_INTEGERS: dict[str, Callable[[int, int], int]] = {
  'add': operator.add,
  'subtract': operator.sub,
  'multiply': operator.mul,
  'minimum': min,
  'maximum': max,
  'LT': operator.lt,
  'LE': operator.le,
  'GT': operator.gt,
  'GE': operator.ge,
  'NE': operator.ne,
}


class Shape(NamedTuple):
  """The type of an array; `bytes` is its size."""

  dtype: str
  sizes: tuple[int, ...]

  @property
  def bytes(self) -> int:
    bits = _BITS.get(self.dtype)
    if bits is None:  # f32, s8, u4, f8e4m3fn
      bits = int(re.match(r'[a-z]+(\d+)', self.dtype)[1])
    return -(-math.prod(self.sizes) * bits // 8)


class Instruction(NamedTuple):
  """One line of HLO.

  Attributes:
    name: name of the instruction.
    type: type and layout of the result.
    opcode: operation, such as 'dot'.
    operands: names of instructions in the same computation.
    inside: text in the parentheses after the opcode.
    attributes: text after the parentheses.
  """

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  inside: str
  attributes: str

  @property
  def shapes(self) -> list[Shape]:
    """Shapes of the result; a tuple has several."""
    return [
      Shape(dtype, tuple(int(n) for n in sizes.split(',') if n))
      for dtype, sizes in re.findall(r'([a-z]\w*)\[([\d,]*)\]', self.type)
    ]

  def attribute(self, pattern: str) -> str | None:
    """Returns the first group of a regular expression found in the attributes, or None."""
    found = re.search(pattern, self.attributes)
    return found and found[1]


class Computation(NamedTuple):
  """A function of the module: its instructions by name, and the name of its result."""

  name: str
  instructions: dict[str, Instruction]
  root: str

  def operands(self, instruction: Instruction) -> list[Instruction]:
    return [self.instructions[name] for name in instruction.operands]


class Program(NamedTuple):
  """A module, and the number of devices that run it."""

  computations: dict[str, Computation]
  entry: str
  devices: int


def _closing(text: str, start: int) -> int:
  """Returns the position after the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i + 1
  raise ValueError(f'parentheses in a line of HLO must match; got {text[:120]}')


def _instruction(line: str) -> Instruction:
  name, rest = line.split(' = ', 1)
  name = name.strip().removeprefix('ROOT ').lstrip('%')
  end = _closing(rest, 0) if rest[0] == '(' else rest.index(' ')
  opening = rest.index('(', end)
  closing = _closing(rest, opening)
  inside = rest[opening + 1 : closing - 1]
  operands = tuple(re.findall(r'%([\w.-]+)', inside))
  return Instruction(name, rest[:end], rest[end:opening].strip(), operands, inside, rest[closing:])


def _computation(name: str, lines: list[str]) -> Computation:
  instructions = {instruction.name: instruction for instruction in map(_instruction, lines)}
  root = next(n for n, line in enumerate(lines) if line.lstrip().startswith('ROOT '))
  return Computation(name, instructions, list(instructions)[root])


def parse(hlo_text: str) -> Program:
  """Parses the text of `jax.stages.Compiled.as_text`.

  Raises:
    ValueError: the text is no HLO module.
  """
  if not hlo_text.startswith('HloModule'):
    raise ValueError(f'the text must be an optimised HLO module; got {hlo_text[:80]!r}')
  counts = re.findall(r'(?:num_partitions|replica_count)=(\d+)', hlo_text[: hlo_text.find('\n')])
  computations, entry, name, lines = {}, '', None, []
  for line in hlo_text.splitlines()[1:]:
    if name is None:
      found = re.match(r'(ENTRY )?%?([\w.-]+) .*\{$', line)
      if found:
        name, lines = found[2], []
        entry = name if found[1] else entry
    elif re.match(r'\}(,|$)', line):
      computations[name] = _computation(name, lines)
      name = None
    elif re.match(r'\s+(ROOT )?%?[\w.-]+ = ', line):
      lines.append(line)
    else:  # attributes of a kernel may span several lines
      lines[-1] += line
  return Program(computations, entry, math.prod(map(int, counts)))


def _evaluate(program: Program, computation: Computation, name: str, parameter) -> Any:
  """Evaluates an integer instruction.

  Args:
    parameter: returns the value of the computation's n-th parameter.

  Returns:
    An integer; for a tuple a function from index to value; None if the value is unknown.
  """
  instruction = computation.instructions[name]

  def operand(n: int) -> Any:
    return _evaluate(program, computation, instruction.operands[n], parameter)

  opcode = instruction.opcode
  if opcode == 'parameter':
    return parameter(int(instruction.inside))
  if opcode == 'constant':
    return int(instruction.inside) if re.fullmatch(r'-?\d+', instruction.inside) else None
  if opcode == 'tuple':
    return operand
  if opcode == 'get-tuple-element':
    elements = operand(0)
    return elements(int(instruction.attribute(r'index=(\d+)'))) if callable(elements) else None
  if opcode in ('copy', 'convert', 'bitcast', 'reshape'):
    return operand(0)
  if opcode in ('fusion', 'call'):
    called = program.computations[instruction.attribute(r'(?:calls|to_apply)=%?([\w.-]+)')]
    return _evaluate(program, called, called.root, operand)
  operation = _INTEGERS.get(instruction.attribute(r'direction=(\w+)') or opcode)
  if operation is None:
    return None
  left, right = operand(0), operand(1)
  return operation(left, right) if isinstance(left, int) and isinstance(right, int) else None


def trips(program: Program, computation: Computation, loop: Instruction) -> int | None:
  """Returns the trip count of a loop: the compiler's note, or the result of executing its counter.

  Returns:
    None if it depends on data or exceeds 65,536.
  """
  known = loop.attribute(r'known_trip_count"?:\{"?n"?:"(\d+)"')
  if known is not None:
    return int(known)
  condition, body = (
    program.computations[loop.attribute(rf'{name}=%?([\w.-]+)')] for name in ('condition', 'body')
  )

  def evaluate(part: Computation, values: Callable[[int], Any]) -> Any:
    return _evaluate(program, part, part.root, lambda _: values)

  start = _evaluate(program, computation, loop.operands[0], lambda _: None)
  if not callable(start):
    return None
  # Elements of the loop's tuple that the condition reads: the counter, and possibly its bound.
  read = set()
  evaluate(condition, lambda index: read.add(index) or start(index))
  values = {index: start(index) for index in read}
  for count in range(_MAX_TRIPS):
    continues = evaluate(condition, values.get)
    if not continues:
      return None if continues is None else count
    after = evaluate(body, values.get)
    values = {index: after(index) for index in read}
  return None


def executed(
  program: Program, is_counted: Callable[[Instruction], bool]
) -> Iterator[tuple[Instruction, Computation, int]]:
  """Yields the selected instructions that are reachable from the entry.

  Of a conditional one branch counts: that whose selected instructions have the most bytes of results. The functions of
  reductions, sorts and scatters are not followed.

  Args:
    program: the module.
    is_counted: selects instructions.

  Yields:
    An instruction, its computation, and the number of its executions.

  Raises:
    ValueError: the trip count of a loop with a selected instruction is unknown.
  """

  def reached(name: str) -> Iterator[tuple[Instruction, Computation, int]]:
    computation = program.computations[name]
    for instruction in computation.instructions.values():
      if is_counted(instruction):
        yield instruction, computation, 1
      branches = [list(reached(called)) for called in _called(instruction)]
      if instruction.opcode == 'conditional':
        branches = [max(branches, key=_result_bytes)]
      for inner in branches:
        times = 1
        if instruction.opcode == 'while' and inner:
          times = trips(program, computation, instruction)
          if times is None:
            raise ValueError(
              f'the trip count of the loop {instruction.name} in {name} must be known: its body '
              f'holds {inner[0][0].opcode} {inner[0][0].name}'
            )
        yield from ((found, where, count * times) for found, where, count in inner)

  yield from reached(program.entry)


def _result_bytes(found: Iterable[tuple[Instruction, Computation, int]]) -> int:
  return sum(count * shape.bytes for each, _, count in found for shape in each.shapes)


def _called(instruction: Instruction) -> list[str]:
  """Returns the names of the computations that an instruction calls."""
  if instruction.opcode == 'while':
    return [instruction.attribute(r'body=%?([\w.-]+)')]
  if instruction.opcode not in ('fusion', 'call', 'async-start', 'custom-call', 'conditional'):
    return []
  called = re.findall(
    r'(?:calls|to_apply|true_computation|false_computation)=(%?[\w.-]+)'
    r'|(?:branch_computations|called_computations)=\{([^}]*)\}',
    instruction.attributes,
  )
  return re.findall(r'[\w.-]+', ' '.join(itertools.chain(*called)))
