"""Bodies: what becomes a request, and what every wrong one is told."""

import json

import pytest

from recjax.data.requests import Request
from recjax.serve import wire

LIMITS = wire.Limits(beams=(20, 50), requests=3, ids=5, candidates=4, items=40)


def read(value):
  return wire.queries(wire.parse(json.dumps(value).encode()), LIMITS)


def test_an_object_is_one_request_and_a_list_holds_several():
  is_one, [query] = read({'history': ['a', 7]})
  assert is_one
  expected = Request(history=['a', 7], k=10, unknown='skip')
  assert query == wire.Query(expected, beams=20)
  value = {
    'history': [], 'k': 40, 'beams': 50, 'within': 'a & ~b', 'exclude': ['x'], 'unknown': 'skip',
    'explain': True,
  }  # fmt: skip
  is_one, (first, second) = read([{'history': ['b'], 'times': [3]}, value])
  assert not is_one
  assert first.request.history == {'history': ['b'], 'times': [3]}
  expected = Request(history=[], k=40, beams=50, within='a & ~b', exclude=['x'], unknown='skip')
  assert second == wire.Query(expected, 50, 'request 1: ', skips_unknown=True, explain=True)
  _, [query] = read({'history': [], 'candidates': ['b', 'a', 'c'], 'within': ['a']})
  expected = Request(history=[], k=3, candidates=['b', 'a', 'c'], within=['a'], unknown='skip')
  assert query == wire.Query(expected, beams=0)


def test_null_stands_for_an_absent_field():
  names = ('k', 'beams', 'within', 'exclude', 'candidates', 'times', 'events', 'unknown', 'explain')
  assert read({'history': ['a'], **dict.fromkeys(names)}) == read({'history': ['a']})


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'', 'the body must be JSON: Expecting value'),
    (b'{"history": ["a"', 'the body must be JSON'),
    (b'\xff\xfe\xff', 'the body must be JSON'),
    (b'[' * 200_000, 'the body must be JSON: it is nested too deeply'),
    (b'{"history": [], "k": NaN}', 'numbers must be finite; got NaN'),
    (b'{"history": [], "history": ["a"]}', 'a name must occur once in an object; "history" occurs twice'),
    (b'[{"history": []}, {"k": 1, "history": [], "k": 2}]', '"k" occurs twice'),
    (b'{"history": [], "k": 1e999}', 'k must be from 1 to 20'),
    (b'{"history": [], "' + b'x' * 900_000 + b'": 1}', 'the fields of a request are'),
    (b'{"history": [], "k": 1' + b'0' * 5000 + b'}', 'the body must be JSON'),
    (b'7', 'the body must be an object with "history", or a list of 1 to 3 of them; got 7'),
    (b'[]', 'got a list of 0'),
    (b'[{}, {}, {}, {}]', 'got a list of 4'),
    (b'[{"history": []}, "a"]', 'request 1: a request must be an object; got "a"'),
    (b'{}', 'must have "history", a list of item ids; got none'),
    (b'{"history": null}', 'history must be a list of item ids; got null'),
    (b'{"history": "abc"}', 'history must be a list of item ids; got "abc"'),
    (b'{"history": {"a": 1}}', 'history must be a list of item ids; got an object'),
    (b'{"history": ["a", [1]]}', 'history must be a list of item ids, which are strings; got a list of 1'),
    (b'{"history": [true]}', 'which are strings; got true'),
    (b'{"history": [1.5]}', 'which are strings; got 1.5'),
    (b'{"history": ["a","a","a","a","a","a"]}', 'history must have at most 5 ids; got 6'),
    (b'{"history": [], "K": 3}', 'got "K"; did you mean k?'),
    (b'{"history": [], "k": 0}', 'k must be from 1 to 20, the beams of the search; got 0'),
    (b'{"history": [], "k": 21}', 'k must be from 1 to 20, the beams of the search; got 21'),
    (b'{"history": [], "k": 41, "beams": 50}', 'k must be from 1 to 40, the items of the catalogue; got 41'),
    (b'{"history": [], "k": 2.0}', 'k must be from 1 to 20'),
    (b'{"history": [], "k": true}', 'k must be from 1 to 20'),
    (b'{"history": [], "k": "5"}', 'k must be from 1 to 20'),
    (b'{"history": [], "beams": 30}', 'beams must be 20 or 50; got 30'),
    (b'{"history": [], "within": 3}', 'within must be a mask'),
    (b'{"history": [], "exclude": "a"}', 'exclude must be a list of item ids'),
    (b'{"history": [], "within": ["a", null]}', 'within must be a list of item ids, which are strings; got null'),
    (b'{"history": [], "candidates": []}', 'candidates must name at least one item'),
    (b'{"history": [], "candidates": ["a","b","c","d","e"]}', 'candidates must have at most 4 ids; got 5'),
    (b'{"history": [], "candidates": ["a"], "k": 2}', 'k must be from 1 to 1, the number of candidates; got 2'),
    (b'{"history": [], "candidates": ["a"], "beams": 20}', 'beams must not be given with candidates'),
    (b'{"history": [], "unknown": "drop"}', 'unknown must be "error" or "skip"'),
    (b'{"history": [], "explain": 1}', 'explain must be true or false'),
    (b'{"history": ["a"], "times": []}', 'times must be a list with one value per item of the history'),
    (b'{"history": ["a"], "events": "b"}', 'events must be a list with one value per item of the history'),
  ],
)  # fmt: skip
def test_a_wrong_body_is_refused_with_its_reason(body, message):
  with pytest.raises(wire.Refused) as caught:
    wire.queries(wire.parse(body), LIMITS)
  assert caught.value.status == 400
  assert message in caught.value.fields['error']
  assert '\n' not in caught.value.fields['error']
  wire.encode(caught.value.fields)


def test_any_text_can_be_encoded():
  text = '<b>\ud800 \u2028 "é"'
  assert json.loads(wire.encode({'title': text})) == {'title': text}
