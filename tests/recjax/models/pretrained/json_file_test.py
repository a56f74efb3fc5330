"""JSON files of a checkpoint folder: every damage is one line that names the file."""

from etils import epath
import pytest

from recjax.models.pretrained import json_file


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'must be JSON: Expecting value'),
    (b'{"a": 1', 'must be JSON: Expecting'),
    (b'\xff\xfe', "must be JSON: 'utf-8' codec"),
    (b'[' * 100_000, 'must be JSON: maximum recursion depth'),
    (b'[1]', r"must be a JSON object; got '\[1\]'"),
    (b'null', "must be a JSON object; got 'None'"),
    (None, 'must be a readable file: .*Is a directory'),
  ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
  file = epath.Path(tmp_path / 'x.json')
  if content is None:
    file.mkdir()
  else:
    file.write_bytes(content)
  with pytest.raises(ValueError, match=f'x.json {message}.*--config.model.pretrained') as error:
    json_file.read_json(file)
  assert '\n' not in str(error.value)


def test_fields_have_a_kind(tmp_path):
  file = epath.Path(tmp_path / 'x.json')
  assert json_file.read_json(file) == {}
  assert json_file.field(file, {'a': None}, 'a', dict, {'b': 1}) == {'b': 1}
  assert json_file.field(file, {'a': 3}, 'a', int, 0) == 3
  for kind, value, words in ((int, True, 'an integer'), (dict, [], 'an object'), (str, 3, 'a str')):
    with pytest.raises(ValueError, match=f'a of .*x.json must be {words}'):
      json_file.field(file, {'a': value}, 'a', kind, None)
