"""The result of a refresh is read as it was written; a damaged file is named."""

from etils import epath
import pytest

from recjax.workdir import refresh_file


def test_the_result_of_a_refresh_is_read(tmp_path):
  workdir = epath.Path(tmp_path) / 'new'
  assert refresh_file.read(workdir) is None
  names = ('from', 'raw_dir', 'inputs', 'steps', *refresh_file.BASE)
  result = {'verdict': 'no-go', 'reasons': ['nothing is new'], 'warnings': ['few rows']}
  result |= dict.fromkeys(names)
  refresh_file.write(workdir, result)
  assert refresh_file.read(workdir) == result
  assert (workdir / 'refresh.txt').read_text() == 'NO-GO: nothing is new\nwarning: few rows\n'


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"verdict": "go"}'])
def test_a_damaged_file_is_named(tmp_path, text):
  (tmp_path / 'refresh.json').write_text(text)
  with pytest.raises(ValueError, match=r'refresh\.json must hold the result of a refresh; it is'):
    refresh_file.read(epath.Path(tmp_path))
