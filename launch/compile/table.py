"""The table of docs/compile.md: which models are compiled for which slices, and how it is written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from launch.compile.chips import GIB

BEGIN, END = '<!-- table: python -m launch.compile --table -->', '<!-- end of table -->'


class Cell(NamedTuple):
  """A published size on a slice, parameters and optimizer cut over half of its chips.

  Cut over all of them, gradients are all-reduced: the compiler makes no reduce-scatter over a whole slice.

  Attributes:
    size: a variant of configs/sports.py.
    topology: of `chips` chips.
    rows: of 512 tokens that each chip has in a step.
    packing_rows: of a packing group; a host has at least one group.
  """

  size: str
  topology: str
  chips: int
  rows: int
  packing_rows: int

  @property
  def name(self) -> str:
    return f'{self.size} {self.topology}'

  @property
  def arguments(self) -> list[str]:
    return [
      f'--config=configs/sports.py:{self.size}',
      f'--topology={self.topology}',
      '--config.mesh.data=2',
      f'--config.mesh.fsdp={self.chips // 2}',
      f'--config.batch_size={self.chips * self.rows}',
      f'--config.packing.rows={self.packing_rows}',
    ]


MODELS = ('flan_t5_xl', 'gemma2_2b', 'gemma3_4b', 'gemma2_9b', 't5_v1_1_xxl', 'gemma3_27b')
SLICES = (('v5e:16x16', 256, 4, 16), ('v5p:4x4x4', 64, 8, 32))  # 64 and 16 hosts of 4 chips
CELLS = tuple(Cell(size, *slice_) for size in MODELS for slice_ in SLICES)

_HEADER = (
  '| model | slice | rows a chip | fits | HBM a chip, GiB: total (parameters + optimizer, temporary) of what there is '
  '| FLOPs a step | counted against closed form | least step time: FLOPs / HBM / ICI, s '
  '| sent a chip and step, GiB |'
)


def _line(cell: Cell, row: Mapping[str, Any] | None) -> str:
  begin = f'| {cell.size} | {cell.topology} | {cell.rows} |'
  if row is None:
    return f'{begin} not compiled yet | | | | | |'
  step = row['training step']
  available = step['hbm_available'] / GIB
  if step['hbm'] is None:
    needed = 'more' if step['hbm_needed'] is None else f'{step["hbm_needed"] / GIB:.1f}'
    closed = step['flops_closed_form']
    total = f'{closed["products"] + closed["kernels"]:.3g}' if closed else ''
    return f'{begin} **no** | {needed} of {available:.2f} | {total} | | | |'
  hbm, line = step['hbm'], step['roofline']
  state = hbm['parameters'] + hbm['optimizer']
  kinds = ', '.join(
    f'{k} {v / GIB:.2f}' for k, v in step['collective_bytes'].items() if v > GIB / 200
  )
  seconds = ' / '.join(f'{line[k]:.3f}' for k in ('flops', 'hbm', 'ici'))
  return (
    f'{begin} {"yes" if step["fits"] else "**no**"} | {sum(hbm.values()) / GIB:.2f} ({state / GIB:.2f}, '
    f'{hbm["temporary"] / GIB:.2f}) of {available:.2f} | {step["flops"]:.3g} | {step["flops_difference"]:+.1%} | '
    f'**{max(line.values()):.3f}**: {seconds} | {kinds} |'
  )


def markdown(rows: Mapping[str, Any]) -> str:
  """The table, a line a cell; cells that the results lack say so.

  Args:
    rows: by `Cell.name`, what `launch.compile --json` writes.
  """
  separator = '|' + '---|' * (_HEADER.count('|') - 1)
  return '\n'.join([_HEADER, separator, *(_line(cell, rows.get(cell.name)) for cell in CELLS)])


def write_docs(path: epath.Path, rows: Mapping[str, Any]) -> None:
  """Replaces the table in a page, between its two marks.

  Raises:
    ValueError: the page lacks a mark.
  """
  text = path.read_text()
  if text.count(BEGIN) != 1 or text.count(END) != 1:
    raise ValueError(f'{path} must hold the lines {BEGIN!r} and {END!r} once each')
  before, rest = text.split(BEGIN)
  partial = path.with_name(path.name + '.partial')
  partial.write_text(f'{before}{BEGIN}\n{markdown(rows)}\n{END}{rest.split(END)[1]}')
  partial.replace(path)
