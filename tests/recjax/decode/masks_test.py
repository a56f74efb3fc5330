"""Named masks against Python sets."""

import random

import numpy as np
import pytest

from recjax.decode import masks as masks_lib
from recjax.decode.masks import Masks

IDS = [f'sku{n}' for n in range(70)]
INDEX = {item: n for n, item in enumerate(IDS)}
SETS = {
  'in_stock': set(range(0, 70, 2)),
  'adult': set(range(0, 70, 3)),
  'de': {1, 31, 32, 63, 64, 69},
  'none': set(),
}


def named(**more):
  return Masks(INDEX, {name: np.array(sorted(s), int) for name, s in (SETS | more).items()})


def items(mask):
  found = {i for i in range(len(IDS)) if masks_lib.contains(mask.bits_W, np.array([i]))[0]}
  assert set(np.flatnonzero(masks_lib.unpacked(mask.bits_W, len(IDS)))) == found
  return found


def random_expression(rng, depth):
  """A random expression, and the items that it means."""
  kind = rng.choice(['name', 'not', 'and', 'or']) if depth else 'name'
  space = lambda: ' ' * rng.randrange(3)  # noqa: E731
  if kind == 'name':
    name = rng.choice(list(SETS))
    return name, SETS[name]
  text, found = random_expression(rng, depth - 1)
  if kind == 'not':
    return f'~{space()}({text}){space()}', set(range(70)) - found
  other_text, other = random_expression(rng, depth - 1)
  if kind == 'and':
    return f'({text}){space()}&{space()}({other_text})', found & other
  return f'({space()}{text})|({other_text}{space()})', found | other


def test_expressions_mean_what_sets_mean():
  masks, rng = named(), random.Random(0)
  for _ in range(200):
    text, expected = random_expression(rng, rng.randrange(5))
    if expected:
      assert items(masks.mask(text)) == expected
    else:
      with pytest.raises(ValueError, match='at least one item'):
        masks.mask(text)


def test_not_binds_closest_then_and_then_or():
  masks, (a, b, c) = named(), (SETS[name] for name in ('in_stock', 'adult', 'de'))
  everything = set(range(70))
  for text, expected in {
    'in_stock | adult & de': a | (b & c),
    'in_stock & adult | de': (a & b) | c,
    '~in_stock & ~adult': everything - a - b,
    '~ ~de': c,
    '~(in_stock|adult)&de': c - a - b,
    'in_stock|~adult|de': a | (everything - b) | c,
  }.items():
    assert items(masks.mask(text)) == expected, text


def test_a_collection_of_ids_and_equal_masks():
  masks = named()
  found = masks.mask(['sku1', 'sku69', 'unknown', 'sku1'])
  assert items(found) == {1, 69}
  assert found.key == masks.mask({'sku69', 'sku1'}).key != masks.mask(('sku69',)).key
  assert masks.mask('de').key == masks.mask([IDS[i] for i in SETS['de']]).key
  numbers = Masks({'7': 0, '8': 1})
  assert numbers.mask([np.int64(8)]).bits_W.tolist() == [2]
  assert items(masks.all) == set(range(70))


@pytest.mark.parametrize(
  ('within', 'words'),
  [
    ('instock', ['must name masks of this catalogue (adult, de, in_stock, none)', "'instock'", 'did you mean in_stock?']),
    ('in_stock &', ["'in_stock &' needs a name, ~ or (", 'its end']),
    ('in_stock & & de', ['needs a name, ~ or (', "'&' at position 12"]),
    ('in_stock de', ['needs &, | or )', "'de' at position 10"]),
    ('(in_stock', ['needs &, | or )', "a '(' is open"]),
    ('in_stock)', ["')' at position 9 without a '('"]),
    ('', ['needs a name', 'its end']),
    ('  ()', ["')' at position 4"]),
    ('in_stock and de', ["'and' at position 10"]),
    ('none', ["'none' leaves none"]),
    ('in_stock & ~in_stock', ['at least one item', 'leaves none']),
    ('(' * 5000, ['needs a name', 'its end']),
    ('~' * 5000, ['needs a name', 'its end']),
    ('x' * 10_001, ['at most 10,000 characters']),
    ([], ['at least one item', '0 ids']),
    (['a', 'b'], ['at least one item', 'none of its 2 ids is in it']),
    (7, ['an expression or a collection', '7']),
    ({'in_stock': 1}, ['an expression or a collection']),
  ],
)  # fmt: skip
def test_a_wrong_mask_is_refused_in_one_line(within, words):
  with pytest.raises(ValueError) as error:
    named().mask(within)
  message = str(error.value)
  assert '\n' not in message and len(message) < 300
  for part in words:
    assert part in message


def test_exclusions_must_leave_an_item():
  masks = named()
  germany = np.array(sorted(SETS['de']))
  masks.check_left(None, germany)
  masks.check_left(masks.mask('de'), np.concatenate([germany[1:], germany[1:], [69]]))
  for mask, hidden in ((masks.mask('de'), [*germany, *germany]), (None, range(70))):
    for check in (masks.check_left, masks.without):
      with pytest.raises(ValueError, match='exclude must leave at least one item of the catalogue'):
        check(mask, np.array(list(hidden)))


def test_without_masks_a_name_is_refused():
  with pytest.raises(ValueError, match='needs masks, and none are loaded'):
    Masks(INDEX).mask('in_stock')


def test_deep_parentheses_need_no_recursion():
  assert items(named().mask('(' * 4000 + 'de' + ')' * 4000)) == SETS['de']


def test_a_folder_of_masks(tmp_path, caplog):
  (tmp_path / 'in_stock.txt').write_bytes(b'\xef\xbb\xbfsku0\r\nsku64\r\n\r\n sku0 \n')
  (tmp_path / 'empty.txt').write_text('')
  (tmp_path / 'age-18.txt').write_text('sku1\ngone\nlost\n')
  (tmp_path / '.hidden.txt').write_text('x')
  (tmp_path / 'notes.md').write_text('x')
  masks = Masks.load(tmp_path, INDEX)
  assert masks.names == ('age-18', 'empty', 'in_stock')
  assert items(masks.mask('in_stock')) == {0, 64}
  assert items(masks.mask('age-18 | empty')) == {1}
  assert items(masks.mask('~empty')) == set(range(70))
  assert "mask age-18: left out 2 of its 3 ids, such as 'gone'" in caplog.text


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('a.txt', b'other1\nother2\n', ['item ids of the catalogue', '2 of its 2 ids', "'other1'"]),
    ('a.txt', b'\xff\xfe', ['UTF-8']),
    ('a.csv', b'sku1\n', ['NAME.txt', 'has none', '--masks']),
    ('in stock.txt', b'sku1\n', ['no space', "'in stock'"]),
    ('a&b.txt', b'sku1\n', ['none of & | ~ ( )', "'a&b'"]),
  ],
)
def test_a_wrong_folder_of_masks_is_refused(tmp_path, name, content, words):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError) as error:
    Masks.load(tmp_path, INDEX)
  assert '\n' not in str(error.value)
  for part in words:
    assert part in str(error.value)
  with pytest.raises(OSError, match='--masks must be a folder'):
    Masks.load(tmp_path / 'absent', INDEX)


def test_many_excluded_items_of_a_row_move_into_its_mask():
  masks, rng = named(), np.random.default_rng(0)
  excluded = [rng.integers(0, 70, size) for size in (3, 9, 30, 90)]
  given = [None, masks.mask('adult'), masks.mask('in_stock'), None]
  left, moved = masks.moved(excluded, given, 8)
  for row in range(4):
    before = set(range(70)) if given[row] is None else items(given[row])
    after = set(range(70)) if moved[row] is None else items(moved[row])
    assert len(left[row]) <= 8
    assert after - set(left[row].tolist()) == before - set(excluded[row].tolist())
  assert masks.moved(excluded[:1], None, 8)[1] is None
  nothing, (empty,) = masks.moved([np.arange(70)], None, 8)
  assert not items(empty) and not len(nothing[0])
