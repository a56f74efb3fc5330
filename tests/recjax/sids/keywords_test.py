"""The file format of keywords: what is read, and what is refused with file and entry."""

import json

import pytest

from recjax.sids import keywords

ENTRIES = [
  {'token': '<a_0>', 'description': 'Séries, “quoted” <b>.', 'keywords': ['soap', 'ünal']},
  {'token': '<b_1>', 'description': '', 'keywords': []},
]


def test_written_entries_are_read_back(tmp_path):
  keywords.write(tmp_path / 'k.json', ENTRIES)
  assert keywords.read(tmp_path / 'k.json', 'x') == ENTRIES
  assert json.loads((tmp_path / 'k.json').read_bytes()) == ENTRIES


def test_an_absent_description_is_empty_and_other_fields_are_ignored(tmp_path):
  (tmp_path / 'k.json').write_text('[{"token": "<a_0>", "keywords": ["soap"], "level": 1}]')
  assert keywords.read(tmp_path / 'k.json', 'x') == [
    {'token': '<a_0>', 'description': '', 'keywords': ['soap']}
  ]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'[', r'k\.json must be JSON'),
    (b'["\xff"]', r'k\.json must be JSON'),
    (b'{}', r'k\.json must hold a list'),
    (b'[1]', r'k\.json, entry 0, must be an object'),
    (b'[{"keywords": []}]', r'entry 0, must be .* a token, a list of keywords'),
    (b'[{"token": "<a_1>", "keywords": "soap"}]', r'entry 0'),
    (b'[{"token": "<a_1>", "keywords": [null]}]', r'entry 0'),
    (b'[{"token": "<a_1>", "keywords": [], "description": 3}]', r'entry 0'),
    (
      b'[{"token": "a", "keywords": []}, {"token": "a", "keywords": []}]',
      r'entry 1, .* the only entry',
    ),
  ],
)
def test_a_file_of_another_format_is_refused(tmp_path, content, message):
  (tmp_path / 'k.json').write_bytes(content)
  with pytest.raises(ValueError, match=message + r'.*Set --config\.model\.sid_keywords'):
    keywords.read(tmp_path / 'k.json', 'model.sid_keywords')
