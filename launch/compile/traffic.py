"""Counts the bytes that an optimised TPU program moves between a chip and its HBM, from the HLO text.

Every instruction reads its operands and writes its result once; loop bodies are multiplied by their trip
counts, unlike in XLA's own `bytes accessed`. Arrays in on-chip memory (`S(1)` and other spaces of a layout) do
not count. A slice reads only its result; an in-place update writes only the new values.
"""

import re

from launch.compile.hlo_text import Computation, Instruction, Program, Shape, executed, parse

# Move no bytes: they name, bundle or reinterpret arrays, control the flow, or end an asynchronous pair.
FREE = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'while',
  'conditional',
  'call',
  'after-all',
  'partition-id',
  'replica-id',
  'opt-barrier',
  'domain',
  'add-dependency',
}
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_SLICES = ('dynamic-slice', 'slice', 'gather')


def _shape(dtype: str, sizes: str) -> Shape:
  return Shape(dtype, tuple(int(n) for n in sizes.split(',') if n))


def _is_in_hbm(layout: str) -> bool:
  return not re.search(r'S\([1-9]\d*\)', layout)


def _bytes(type_: str) -> int:
  """Returns the bytes of a type's parts in HBM."""
  return sum(
    _shape(dtype, sizes).bytes
    for dtype, sizes, layout in _SHAPE.findall(type_)
    if _is_in_hbm(layout)
  )


def _users(computation: Computation, name: str) -> list[Instruction]:
  """Returns the instructions that use a value, also through bitcasts."""
  found = []
  for user in computation.instructions.values():
    if name in user.operands:
      found += _users(computation, user.name) if user.opcode == 'bitcast' else [user]
  return found


def _read(program: Program, called: Computation, parameter: Instruction) -> int:
  """Returns the bytes that a fusion reads from a parameter in HBM."""
  size = _bytes(parameter.type)
  if not size:
    return 0
  total = 0
  for user in _users(called, parameter.name):
    if user.opcode in _SLICES:
      total += _bytes(user.type)
    elif user.opcode == 'dynamic-update-slice' and _is_source(called, user, parameter):
      continue  # in place
    else:
      return size
  return min(total, size)


def _is_source(computation: Computation, update: Instruction, value: Instruction) -> bool:
  source = computation.instructions[update.operands[0]]
  while source.opcode == 'bitcast':
    source = computation.instructions[source.operands[0]]
  return source.name == value.name


def _written(program: Program, computation: Computation, name: str) -> int:
  """Returns the bytes that an instruction, or the root of a fusion, writes to HBM."""
  instruction = computation.instructions[name]
  if instruction.opcode == 'bitcast':
    return _written(program, computation, instruction.operands[0])
  if instruction.opcode == 'tuple':
    return sum(_written(program, computation, operand) for operand in instruction.operands)
  if instruction.opcode == 'dynamic-update-slice':
    return _bytes(computation.instructions[instruction.operands[1]].type)
  return _bytes(instruction.type)


def _moved(program: Program, computation: Computation, instruction: Instruction) -> int:
  operands = computation.operands(instruction)
  opcode = instruction.opcode
  if opcode == 'fusion':
    called = program.computations[instruction.attribute(r'calls=%?([\w.-]+)')]
    parameters = (i for i in called.instructions.values() if i.opcode == 'parameter')
    read = sum(_read(program, called, parameter) for parameter in parameters)
    return read + (_written(program, called, called.root) if _bytes(instruction.type) else 0)
  if opcode in _SLICES:
    return 2 * _bytes(instruction.type)
  if opcode == 'dynamic-update-slice':
    return 2 * _bytes(operands[1].type)
  if opcode in ('copy-start', 'slice-start'):
    # The type names both sides. One of them may be in on-chip memory.
    sides = _SHAPE.findall(instruction.type)[:2]
    size = min(_shape(dtype, sizes).bytes for dtype, sizes, _ in sides)
    return size * sum(_is_in_hbm(layout) for _, _, layout in sides)
  if opcode.endswith('-start') or opcode in ('send', 'recv'):
    return _bytes(instruction.type)  # a collective; its type names operand and result
  return _bytes(instruction.type) + sum(_bytes(operand.type) for operand in operands)


def hbm_bytes(hlo_text: str) -> int:
  """Returns the bytes moved between one chip and its HBM in a run of the program.

  Args:
    hlo_text: the result of `jax.stages.Compiled.as_text`.

  Raises:
    ValueError: the text is no HLO module, or the trip count of a loop is unknown.
  """
  program = parse(hlo_text)
  inside = {
    name
    for computation in program.computations.values()
    for instruction in computation.instructions.values()
    if instruction.opcode in ('fusion', 'async-start')
    for name in re.findall(r'calls=%?([\w.-]+)', instruction.attributes)
  }

  def is_counted(instruction: Instruction) -> bool:
    return instruction.opcode not in FREE and not instruction.opcode.endswith(('-done', '-update'))

  return sum(
    count * _moved(program, computation, instruction)
    for instruction, computation, count in executed(program, is_counted)
    if computation.name not in inside
  )
