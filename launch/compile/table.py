"""Writes the table of docs/compile.md: compiles its cells (a model on a slice) and updates the page."""

from collections.abc import Mapping
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from etils import epath

from launch.compile.chips import GIB
from recjax.runtime.files import write_whole

RESULTS, DOCS = 'results/compile.json', 'docs/compile.md'
BEGIN, END = '<!-- table: python -m launch.compile --table -->', '<!-- end of table -->'


class Cell(NamedTuple):
  """A published size on a slice, with parameters and optimizer sharded over half of its chips.

  Sharded over all chips, gradients would be all-reduced: the compiler has no reduce-scatter over a whole slice.

  Attributes:
    size: a variant of configs/sports.py.
    topology: a slice of `chips` chips.
    rows: rows of 512 tokens per chip and step.
    packing_rows: rows of a packing group; a host has at least one group.
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
  '| model | slice | rows a chip | fits | HBM a chip, GiB: total (parameters + optimizer, temporary) of available '
  '| FLOPs a step | counted against closed form | least step time: FLOPs / HBM / ICI, s '
  '| sent by a chip in a step, GiB |'
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
  """Returns the table, with one line for each cell.

  Args:
    rows: the content of `launch.compile --json` by `Cell.name`; cells may be missing.
  """
  separator = '|' + '---|' * (_HEADER.count('|') - 1)
  return '\n'.join([_HEADER, separator, *(_line(cell, rows.get(cell.name)) for cell in CELLS)])


def write_docs(path: epath.Path, rows: Mapping[str, Any]) -> None:
  """Replaces the table of a page, between its two marks.

  Args:
    path: path of the page.
    rows: see `markdown`.

  Raises:
    ValueError: the page lacks a mark.
  """
  text = path.read_text()
  if text.count(BEGIN) != 1 or text.count(END) != 1:
    raise ValueError(f'{path} must hold the lines {BEGIN!r} and {END!r} once each')
  before, rest = text.split(BEGIN)
  write_whole(path, f'{before}{BEGIN}\n{markdown(rows)}\n{END}{rest.split(END)[1]}')


def _compile(cell: Cell) -> dict[str, Any]:
  """Compiles a cell in a new process, so that its memory is free before the next one."""
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'cell.json')
    command = [sys.executable, '-m', 'launch.compile', *cell.arguments, '--nosearch']
    command.append(f'--json={out}')
    status = subprocess.run(command, check=False).returncode
    if status not in (0, 1) or not os.path.exists(out):
      raise RuntimeError(f'{" ".join(command)} ended with status {status}')
    with open(out) as file:
      return json.load(file)


def _rows() -> dict[str, Any]:
  path = epath.Path(RESULTS)
  return json.loads(path.read_text()) if path.exists() else {}


def complete(pattern: str) -> None:
  """Compiles the cells that the results lack, and writes the page after each cell.

  Args:
    pattern: a regular expression; only cells whose name contains it are compiled.
  """
  for cell in CELLS:
    if re.search(pattern, cell.name) and cell.name not in _rows():
      print(f'--- {cell.name}', flush=True)
      row = _compile(cell)
      rows = _rows() | {cell.name: row}  # read again: another process may have added a cell
      write_whole(RESULTS, json.dumps(rows, indent=1) + '\n')
    write_docs(epath.Path(DOCS), _rows())
