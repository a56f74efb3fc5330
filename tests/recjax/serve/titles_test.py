"""The search by title, against a search of every item."""

import numpy as np

from recjax.serve.titles import Titles


def brute_force(items, popularity_I, text):
  words = text.casefold().split()
  lines = [f'{item.get("title") or ""} {item["id"]}'.casefold() for item in items]
  found = [i for i, line in enumerate(lines) if all(word in line for word in words)]
  return sorted(found, key=lambda i: (items[i]['id'] != text, -popularity_I[i], i))


def test_a_search_finds_what_a_look_at_every_item_finds():
  rng = np.random.default_rng(0)
  words = ['Rot', 'blau', 'STRASSE', 'straße', '<b>ab</b>', 'a', 'ab', 'line\nbreak']
  items = [
    {'id': f'i{n}', 'title': ' '.join(rng.choice(words, rng.integers(0, 4)))} for n in range(80)
  ]
  items += [{'id': 'untitled'}, {'id': 'i7 x', 'title': None}]
  popularity_I = rng.integers(0, 9, len(items))
  titles = Titles(items, popularity_I)
  for text in (
    '',
    ' ',
    'rot',
    'Straße ab',
    'a i7',
    'i7',
    'i7 x',
    'UNTITLED',
    '<b>',
    'no such',
    'x',
  ):
    expected = brute_force(items, popularity_I, text)
    assert titles.search(text, 1000) == expected, text
    assert titles.search(text, 3) == expected[:3], text
