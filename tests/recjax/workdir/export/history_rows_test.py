"""Files of histories of the scripts in exported folders: what they refuse, and how they are written."""

import json

import pytest

from recjax.workdir.export import history_rows

KNOWN = {'i01': 0, 'i02': 1}


@pytest.mark.parametrize('name', ['h.jsonl.gz', 'h.parquet', 'h.pq', 'H.GZ'])
def test_names_of_other_formats_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match=r'the histories must be plain JSON lines, such as x.jsonl'):
    history_rows.check(tmp_path / name, tmp_path / 'o.jsonl')
  with pytest.raises(ValueError, match=r'the output must be plain JSON lines, such as x.jsonl'):
    history_rows.check(tmp_path / 'h.jsonl', tmp_path / name)


def test_the_folder_of_the_output_is_checked(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  history_rows.check('h.jsonl', 'o.jsonl')
  with pytest.raises(OSError, match=r'the folder of the output must exist; .*nowhere does not'):
    history_rows.check('h.jsonl', tmp_path / 'nowhere' / 'o.jsonl')
  with pytest.raises(OSError, match=r'the output must be a file; .* is a folder'):
    history_rows.check('h.jsonl', tmp_path)


def test_a_line_that_nests_too_deep_is_named(tmp_path):
  (tmp_path / 'h.jsonl').write_text('{"history": []}\n' + '[' * 100_000)
  with pytest.raises(ValueError, match=r'h.jsonl:2: a line must be a JSON object'):
    history_rows.read(tmp_path / 'h.jsonl', KNOWN, [], False)


def test_the_output_appears_when_it_is_whole(tmp_path):
  (tmp_path / 'h.jsonl').write_text('{"history": ["i01"], "x": [NaN, 1.5]}\n{"history": []}\n')
  rows, out = history_rows.read(tmp_path / 'h.jsonl', KNOWN, [], False), tmp_path / 'o.jsonl'
  out.write_text('earlier')
  with pytest.raises(TypeError):
    history_rows.write(out, rows, [[], object()])
  assert out.read_text() == 'earlier'
  assert sorted(path.name for path in tmp_path.iterdir()) == ['h.jsonl', 'o.jsonl']
  history_rows.write(out, rows, [[{'item': 'i02', 'score': -0.5}], []])
  first, second = (
    json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()
  )
  assert first == {
    'history': ['i01'],
    'x': [None, 1.5],
    'recommendations': [{'item': 'i02', 'score': -0.5}],
  }
  assert second == {'history': [], 'recommendations': []}
  assert sorted(path.name for path in tmp_path.iterdir()) == ['h.jsonl', 'o.jsonl']
