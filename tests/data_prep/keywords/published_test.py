"""Imported keywords: a file of TS-Rec, and files that do not match the SID table."""

import json

import numpy as np
import pytest

from data_prep.keywords import published
from data_prep.keywords.groups import groups
from recjax.sids.table import SidTable
from tests.shared_data import SHARED, needs_shared

TOKEN_GROUPS = groups(SidTable(np.array([[0, 2], [0, 1]], np.int32), (2, 3), 'x', 'keep'))
ENTRIES = [
  {'token': token, 'description': f'about {token}', 'keywords': [' as it is ']}
  for token in ('<b_2>', '<b_1>', '<a_0>')
]


def write(tmp_path, content):
  path = tmp_path / 'keywords.json'
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def test_entries_are_unchanged_and_in_token_order(tmp_path):
  more = {'token': '<a_1>', 'description': 'of no item', 'keywords': ['x']}
  entries = published.entries(write(tmp_path, [more, *ENTRIES]), TOKEN_GROUPS, [])
  assert entries == [ENTRIES[2], ENTRIES[1], ENTRIES[0]]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('[', r'keywords\.json must be JSON.*--config\.keywords\.file'),
    ('{}', r'must hold a list'),
    ([*ENTRIES, ENTRIES[0]], r'entry 3, must be the only entry of its token; <b_2>'),
    ([*ENTRIES[:2], {'token': '<a_0>'}], r'entry 2, must be an object with a token'),
    ([*ENTRIES[:2], {**ENTRIES[2], 'keywords': [1]}], r'entry 2, must be an object'),
    ([*ENTRIES[:2], {**ENTRIES[2], 'description': None}], r'entry 2, must be an object'),
    (
      ENTRIES[:1],
      r'each of the 3 SID tokens that items have; 2 are missing: <a_0>, <b_1>\. It has 0 ',
    ),
    (
      [{**entry, 'token': entry['token'].upper()} for entry in ENTRIES],
      r'3 are missing: <a_0>, <b_1>, <b_2>\. It has 3 entries of other tokens',
    ),
    ([*ENTRIES[:2], {**ENTRIES[2], 'keywords': []}], r'1 lack them: <a_0>'),
    ([*ENTRIES[:2], {**ENTRIES[2], 'description': ' '}], r'1 lack them: <a_0>'),
  ],
)
def test_files_that_do_not_match_the_sid_table_are_rejected(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    published.entries(write(tmp_path, content), TOKEN_GROUPS, [])


@needs_shared('amazon2018/industrial')
def test_the_file_of_ts_rec_covers_its_sids():
  folder = SHARED / 'amazon2018' / 'industrial'
  table = json.loads((folder / 'index' / 'Industrial_and_Scientific.index.json').read_text())
  codes_IL = np.array([[int(token[3:-1]) for token in row] for row in table.values()], np.int32)
  token_groups = groups(SidTable(codes_IL, (256, 256, 256), 'import', 'keep'))
  path = folder / 'semantics' / 'Industrial_and_Scientific.description_keywords.json'
  entries = published.entries(path, token_groups, [])
  assert len(entries) == 560
  assert [sum(f'<{level}_' in entry['token'] for entry in entries) for level in 'abc'] == [
    48,
    256,
    256,
  ]
  of_file = {entry['token']: entry for entry in json.loads(path.read_text())}
  assert {entry['token']: entry for entry in entries} == of_file
  counts = [len(entry['keywords']) for entry in entries]
  assert (min(counts), max(counts)) == (18, 26)  # as published
