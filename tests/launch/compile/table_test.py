"""The table of docs/compile.md and its cells."""

import json

import pytest

from launch.compile import table
from launch.compile.report import as_json
from tests.launch.compile.examples import config_of, estimate_of


def test_the_table_has_every_cell_and_the_rest_of_the_page_stays(tmp_path):
  cell, other = table.CELLS[0], table.CELLS[1]
  rows = {
    cell.name: {'training step': as_json(estimate_of())},
    other.name: {'training step': as_json(estimate_of(memory=None, refusal='(31.25G) exceeds'))},
  }
  page = tmp_path / 'page.md'
  page.write_text(f'before\n{table.BEGIN}\nold\n{table.END}\nafter\n')
  table.write_docs(page, json.loads(json.dumps(rows)))
  text = page.read_text()
  assert text.startswith('before\n') and text.endswith('after\n') and 'old' not in text
  lines = [line for line in text.splitlines() if line.startswith('|')]
  assert len(lines) == 2 + 12 and len({line.count('|') for line in lines}) == 1
  assert '| yes | 12.00 (6.00, 5.00) of 15.75 |' in lines[2] and '**2.000**: 1.000' in lines[2]
  assert '| **no** | 31.2 of 15.75 |' in lines[3]
  assert sum('not compiled yet' in line for line in lines) == 10
  page.write_text('no marks')
  with pytest.raises(ValueError, match='must hold the lines'):
    table.write_docs(page, rows)


def test_the_cells_are_valid_configs():
  assert len(table.CELLS) == 12
  for cell in table.CELLS:
    given = dict(a.removeprefix('--config.').split('=') for a in cell.arguments[2:])
    config = config_of(cell.size, **{name: int(value) for name, value in given.items()})
    hosts = cell.chips // 4
    assert config.mesh.data * config.mesh.fsdp == cell.chips
    assert config.batch_size == cell.chips * cell.rows
    assert config.batch_size % (config.packing.rows * hosts) == 0
