"""Rows of the catalogue, written out by hand."""

from collections import Counter
import decimal
import functools
import json

import pytest

from data_prep.log import item_text
from data_prep.log.item_text import tidy
from recjax.schema.data import Data


@pytest.mark.parametrize(
  ('raw', 'plain'),
  [
    ('Soap &amp; \n water ', 'Soap & water'),
    # Entities are resolved once; what they spell stays text.
    ('&lt;b&gt;bold&lt;/b&gt; <i>', '<b>bold</b> <i>'),
    ('&amp;lt;', '&lt;'),
    ('half \ud800 a\x00b\x9f\tc', 'half a b c'),
    (' \n', ''),
  ],
)
def test_plain_resolves_entities_and_collapses_white_space(raw, plain):
  assert item_text.plain(raw) == plain


def test_item_rows_hold_the_tidied_fields_and_the_encoder_text():
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
      'text': 'T. ' + long[:2000],
    },
  ]


def test_a_format_gives_the_encoder_text_with_a_cut_description():
  iirg = functools.partial(
    item_text.encoder_text,
    text_format='Title: {title} Description: {description}',
    description_chars=10,
  )
  record = {'title': 'Soap', 'brand': 'B', 'description': 'kind to hands', 'categories': ['C', 'D']}
  row = item_text.item_row('i', record, text=iirg)
  assert row['text'] == 'Title: Soap Description: kind to ha'
  assert row['description'] == 'kind to hands'
  assert item_text.item_row('i', {'title': 'T'}, text=iirg)['text'] == 'Title: T Description:'
  # Without any of its fields an item has no text, so its vector is zero.
  assert item_text.item_row('i', {'brand': 'B'}, text=iirg)['text'] == ''
  every = functools.partial(
    item_text.encoder_text, text_format='{title}|{brand}|{categories}|{price}|{description}'
  )
  assert item_text.item_row('i', record | {'price': 0}, text=every)['text'] == (
    'Soap|B|C > D|0|kind to hands'
  )
  short = functools.partial(item_text.encoder_text, description_chars=4)
  assert item_text.item_row('i', {'description': 'kind to'}, text=short)['text'] == 'kind'


@pytest.mark.parametrize(
  'wrong', ['', 'title', '{}', '{name}', '{title', '{title:>9}', '{price!r}']
)
def test_a_format_with_other_placeholders_is_refused(wrong):
  with pytest.raises(
    ValueError, match=r'data\.text_format must hold one or more of \{title\}, .*\{price\}.*got'
  ):
    Data(source='table', name='x', text_format=wrong)


SCRIPT = 'var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();'
PROSE = 'A soap that is kind to the hands and to the river.'
STYLE = '.a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{background:#eee}'


@pytest.mark.parametrize(
  ('raw', 'readable', 'count'),
  [
    ('Red <b>soap</b><br/>for <p class="x">hands', 'Red soap for hands', 'title_cleaned'),
    ('Soap <script>var x = 1;</script>bar', 'Soap bar', 'title_cleaned'),
    ('Soap <!-- <b>old</b> --> bar', 'Soap bar', 'title_cleaned'),
    ('Soap <style>p{color:red}', 'Soap', 'title_cleaned'),
    ('Caf\ufffd', 'Caf\ufffd', 'title_cleaned'),
    (decimal.Decimal('1984'), '1984', None),
    (float('inf'), None, 'title_dropped'),
    ('x' * 13_000, 'x' * 10_000, 'title_cut'),
    (1984, '1984', None),
    (['Soap', 'bar'], 'Soap bar', None),
    # Signs that are not markup
    ('Love <3, 5 < 7 > 2, <unk> & {curly} a=b', 'Love <3, 5 < 7 > 2, <unk> & {curly} a=b', None),
    ('Shampoo (function: shine) {2 pack}', 'Shampoo (function: shine) {2 pack}', None),
    ('Nano', 'Nano', None),
    ('Pack{size: 2}of x', 'Pack{size: 2}of x', None),
    ('Pack {size: 2} 3.5 {note: (a = b)}', 'Pack {size: 2} 3.5 {note: (a = b)}', None),
    # A few rules of a style sheet, or a script, inside much text
    (
      f'{PROSE} .caption {{font: bold;}}ul.a, p {{list: b;c: d}}i{{a:b}}{PROSE}',
      f'{PROSE} {PROSE}',
      'title_cleaned',
    ),
    (f'{PROSE} var a = 1; b();', PROSE, 'title_cleaned'),
    (f'{PROSE} function (a) {{', PROSE, 'title_cleaned'),
    ('', None, None),
    (' \t', None, None),
    (None, None, None),
    # Not readable
    ('—', None, 'title_dropped'),
    ('NaN', None, 'title_dropped'),
    (float('nan'), None, 'title_dropped'),
    ('n/a', None, 'title_dropped'),
    (True, None, 'title_dropped'),
    ({'a': 1}, None, 'title_dropped'),
    ([1, 2], None, 'title_dropped'),
    ('<br/>', None, 'title_dropped'),
    (SCRIPT, None, 'title_dropped'),
    (SCRIPT * 200, None, 'title_dropped'),
    (STYLE, None, 'title_dropped'),
  ],
)
def test_titles_are_cleaned_cut_or_dropped(raw, readable, count):
  counts = Counter()
  assert tidy({'title': raw}, counts) == ({} if readable is None else {'title': readable})
  assert +counts == Counter([count] if count else [])


@pytest.mark.parametrize(
  ('raw', 'number'),
  [
    (12.99, 12.99),
    (7, 7),
    ('$12.99', 12.99),
    ('12,99', 12.99),
    ('12,99 €', 12.99),
    ('EUR 1.299,00', 1299.0),
    ('US$ 1,299.00', 1299.0),
    ('1,299', 1299.0),
    ('1.299', 1.299),
    ('1 299,5', 1299.5),
    ("CHF 1'299'000.-", None),
    ('$5.99 - $12.99', 5.99),
    ('—', None),
    ('NaN', None),
    (float('nan'), None),
    (float('inf'), None),
    (True, None),
    ('free', None),
    (STYLE, None),
    ([1], None),
    (10**400, None),
    ('9' * 400, None),
  ],
)
def test_prices_are_parsed_or_dropped(raw, number):
  counts = Counter()
  tidied = tidy({'price': raw}, counts)
  assert tidied == ({} if number is None else {'price': number})
  assert counts['price_dropped'] == (number is None)
  json.dumps(tidied, allow_nan=False)


@pytest.mark.parametrize(
  ('raw', 'paths', 'count'),
  [
    ([['A', 'B'], ['C']], [['A', 'B'], ['C']], None),
    (['A', 'B'], [['A', 'B']], None),
    ('A', [['A']], None),
    ([['A', '']], [['A']], None),
    ([['A', '—', 'B']], [['A', 'B']], 'categories_cleaned'),
    ([['A', '<span class="x">B', 'C'], ['D']], [['A'], ['D']], 'categories_cleaned'),
    ([['A', '<span class="cut off', 'C']], [['A']], 'categories_cleaned'),
    ([['A <3 B']], [['A <3 B']], None),
    ([['A', STYLE, 'C']], [['A']], 'categories_cleaned'),
    ([['A', None, 3]], [['A']], 'categories_cleaned'),
    ([['A', 'B\ufffd']], [['A', 'B\ufffd']], 'categories_cleaned'),
    ([[float('nan')]], [], 'categories_dropped'),
    (float('nan'), [], 'categories_dropped'),
    ({'a': 1}, [], 'categories_dropped'),
    ([], [], None),
  ],
)
def test_category_paths_are_cleaned_or_dropped(raw, paths, count):
  counts = Counter()
  assert tidy({'categories': raw}, counts) == ({'categories': paths} if paths else {})
  assert +counts == Counter([count] if count else [])
