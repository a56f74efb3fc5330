from etils import epath
import pytest

from recjax.workdir import mixture_file


def test_written_rows_are_read_back_and_a_missing_file_is_empty(tmp_path):
  folder = epath.Path(tmp_path)
  assert mixture_file.read(folder) == []
  rows = [{'name': 'next_item', 'share': 0.25, 'units': 3}]
  mixture_file.write(folder, rows)
  assert mixture_file.read(folder) == rows
  assert [path.name for path in folder.iterdir()] == ['mixture.json']


@pytest.mark.parametrize('content', [b'', b'[{"na', b'{}', b'[1]', b'\xff', b'[' * 100_000])
def test_a_damaged_file_is_left_out_with_a_warning(tmp_path, content, caplog):
  (tmp_path / 'mixture.json').write_bytes(content)
  assert mixture_file.read(epath.Path(tmp_path)) == []
  assert 'mixture.json is damaged and left out' in caplog.text
