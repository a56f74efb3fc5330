"""Class-based TF-IDF compared with dictionaries, and the descriptions."""

from collections import Counter
import json
import math

import numpy as np
import pytest

from data_prep.keywords import ctfidf
from data_prep.keywords.groups import groups
from recjax.sids.table import SidTable

WORDS = ['soap', 'brush', 'oil', 'night', 'day', 'pearl', 'cream', 'anti-aging', "women's", 'the']


def random_world(num_items=60, seed=0):
  rng = np.random.default_rng(seed)
  items = [
    {'id': f'i{n}', 'text': '. '.join(' '.join(rng.choice(WORDS, 4)) for _ in range(2)) + f' x{n}'}
    for n in range(num_items)
  ]
  codes_IL = rng.integers(0, 8, (num_items, 2)).astype(np.int32)
  return items, SidTable(codes_IL, (8, 8), 'x', 'keep')


def brute_force(items, sid_table, top):
  """Class-based TF-IDF by its definition, term by term."""
  texts = [list(ctfidf.terms(item['text'])) for item in items]
  in_items = Counter(term for terms in texts for term in set(terms))
  found = {}
  for level, letter in enumerate('ab'):
    classes = {}
    for terms, codes in zip(texts, sid_table.codes_IL, strict=True):
      classes.setdefault(int(codes[level]), Counter()).update(terms)
    f = Counter()
    for counts in classes.values():
      f.update(counts)
    mean = sum(f.values()) / len(classes)
    for code, counts in classes.items():
      weights = {
        term: (in_items[term] < 2, -tf * math.log(1 + mean / f[term]), term)
        for term, tf in counts.items()
      }
      found[f'<{letter}_{code}>'] = sorted(weights, key=weights.get)[:top]
  return found


def test_keywords_equal_the_definition_of_class_based_tfidf():
  items, sid_table = random_world()
  entries = ctfidf.entries(groups(sid_table), items, 5)
  expected = brute_force(items, sid_table, 5)
  assert {entry['token']: entry['keywords'] for entry in entries} == expected
  assert entries == ctfidf.entries(groups(sid_table), items, 5)


def test_terms_are_words_and_pairs_of_neighbours():
  text = "The 12 oz Bath & Body women's anti-aging Night-Cream, x 100% SOAP. Ünal 3d"
  assert list(ctfidf.terms(text)) == [
    'oz', 'bath', 'oz bath', 'body', "women's", "body women's", 'anti-aging', "women's anti-aging",
    'night-cream', 'anti-aging night-cream', 'soap', 'ünal', '3d', 'ünal 3d',
  ]  # fmt: skip


def test_every_used_token_of_quantized_levels_has_an_entry():
  codes_IL = np.array([[3, 1, 0], [3, 1, 1], [0, 2, 0]], np.int32)
  items = [{'id': 'a', 'text': ''}, {'id': 'b', 'text': '7'}, {'id': 'c', 'text': 'soap'}]
  token_groups = groups(SidTable(codes_IL, (4, 4, 2), 'x'))
  assert [(g.token, g.items.tolist()) for g in token_groups] == [
    ('<a_0>', [2]), ('<a_3>', [0, 1]), ('<b_1>', [0, 1]), ('<b_2>', [2]),
  ]  # fmt: skip
  entries = ctfidf.entries(token_groups, items, 20)
  assert [entry['keywords'] for entry in entries] == [['soap'], [], [], ['soap']]
  assert entries[1]['description'] == 'Items that no word describes.'
  nothing = ctfidf.entries(token_groups, [{'id': 'x', 'text': ''}] * 3, 20)
  assert [entry['keywords'] for entry in nothing] == [[]] * 4


def test_the_description_names_words_category_and_titles():
  items = [
    {
      'id': str(n),
      'title': title,
      'categories': [['Beauty', 'Hair Care', path]],
      'text': f'{title}. Hair Care > {path}',
    }
    for n, (title, path) in enumerate(
      [
        ('Green Shampoo', 'Shampoos'),
        ('Red Shampoo.', 'Shampoos'),
        ('Very ' * 20 + 'long shampoo', 'Other'),
        ('Nail file', 'Nails'),
      ]
    )
  ]
  codes_IL = np.array([[0], [0], [0], [1]], np.int32)
  first, second = ctfidf.entries(groups(SidTable(codes_IL, (2,), 'x', 'keep')), items, 3)
  # By hand: 7, 7, 6 and 7 terms (`very` and `other` are stop words), so A = 13.5; shampoo has 3 log(1 + A / 3)
  # = 5.11, care, hair and the pair 3 log(1 + A / 4) = 4.43, in the order of spelling; shampoos 4.09.
  assert first['keywords'] == ['shampoo', 'care', 'hair']
  assert first['description'] == (
    'Items about shampoo, care and hair, mostly in Hair Care > Shampoos. Such as: Green Shampoo; '
    f'Red Shampoo; {("Very " * 16).strip()} ….'
  )
  assert second['keywords'][:2] == ['care', 'hair']


@pytest.mark.parametrize('top', [1, 20])
def test_the_number_of_keywords_is_limited(top):
  items, sid_table = random_world(seed=1)
  counts = [len(e['keywords']) for e in ctfidf.entries(groups(sid_table), items, top)]
  assert max(counts) == top
  assert json.loads(json.dumps(counts)) == counts


def test_scripts_without_spaces_give_shared_keywords(caplog):
  titles = ['红色天然香皂', '天然香皂套装', '男士防晒霜', '儿童防晒霜SPF50']
  items = [{'id': str(n), 'title': title, 'text': title} for n, title in enumerate(titles)]
  table = SidTable(np.array([[0], [0], [1], [1]], np.int32), (2,), 'x', 'keep')
  soap, sun = ctfidf.entries(groups(table), items, 3)
  assert all(word in '天然香皂' for word in soap['keywords'])
  assert all(word in '防晒霜' for word in sun['keywords'])
  assert soap['description'].startswith('Items about 天')
  assert not caplog.text


def test_a_catalogue_without_shared_words_gives_a_warning(caplog):
  items = [{'id': str(n), 'title': f'word{n}', 'text': f'word{n}'} for n in range(20)]
  table = SidTable(np.arange(20, dtype=np.int32)[:, None] % 2, (2,), 'x', 'keep')
  ctfidf.entries(groups(table), items, 3)
  assert 'only 0 of 20 item texts share a word' in caplog.text
