from etils import epath

from recjax.workdir import mixture_file


def test_written_rows_are_read_back_and_a_missing_file_is_empty(tmp_path):
  folder = epath.Path(tmp_path)
  assert mixture_file.read(folder) == []
  rows = [{'name': 'next_item', 'share': 0.25, 'units': 3}]
  mixture_file.write(folder, rows)
  assert mixture_file.read(folder) == rows
  assert [path.name for path in folder.iterdir()] == ['mixture.json']
