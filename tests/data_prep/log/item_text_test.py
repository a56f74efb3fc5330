"""Rows of the catalogue by hand."""

import pytest

from data_prep.log import item_text


@pytest.mark.parametrize(
  ('raw', 'plain'),
  [
    ('Soap &amp; \n water ', 'Soap & water'),
    (
      '&lt;b&gt;bold&lt;/b&gt; <i>',
      '<b>bold</b> <i>',
    ),  # entities are resolved once, tags stay text
    ('&amp;lt;', '&lt;'),
    ('half \ud800 a\x00b\x9f\tc', 'half a b c'),
    (' \n', ''),
  ],
)
def test_tidy(raw, plain):
  assert item_text.tidy(raw) == plain


def test_rows_hold_what_is_known_and_the_text():
  long = 'long ' * 1000
  rows = {
    'nothing': {'title': None, 'brand': '', 'categories': None},
    'paths': {'title': 'T', 'brand': 'B', 'categories': [['C &amp; c', 'D'], [], ['E']]},
    'priced': {'title': 'T', 'description': long, 'price': 0.0},
  }
  assert [item_text.item_row(name, record) for name, record in rows.items()] == [
    {'id': 'nothing', 'text': ''},
    {
      'id': 'paths',
      'title': 'T',
      'brand': 'B',
      'categories': [['C & c', 'D'], ['E']],
      'text': 'T. B. C & c > D. E',
    },
    {
      'id': 'priced',
      'title': 'T',
      'description': long.strip(),
      'price': 0.0,
      'text': 'T. ' + long[: item_text.MAX_DESCRIPTION],
    },
  ]
