"""The command of the tables, on the small synthetic world."""

import json
import subprocess
import sys

import pytest

from tests.folders import ROOT


@pytest.mark.soak
def test_a_table_is_trained_once_and_then_read(tmp_path):
  command = [
    *(sys.executable, '-m', 'bench.ablations', '--table=iirg', '--data=demo', '--seeds=0,1'),
    *('--base=configs/demo.py:tiny', '--rows=+ both', '--parallel=2', f'--workdirs={tmp_path}/w'),
    *('--config.packing.row_length=96', f'--out={tmp_path}/table.json'),
  ]
  found = []
  for _ in range(2):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found.append((done.stdout, json.loads((tmp_path / 'table.json').read_text())))
  assert '4 of 4 runs are finished' in found[1][0]
  assert found[0][1]['data'] == found[1][1]['data']
  assert str(tmp_path) not in json.dumps(found[0][1])
  rows = found[0][1]['data']['demo']['test']['rows']
  assert list(rows) == ['next item alone', '+ both']
  assert {*rows['+ both']['differences']} == {'all', 'inside', 'outside'}
