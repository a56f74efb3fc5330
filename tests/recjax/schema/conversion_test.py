"""Nested dicts become sections; errors name fields by their path, also in named sections."""

import dataclasses
import math
import os
from typing import ClassVar

import pytest

from recjax.schema.checks import Section, setting
from recjax.schema.conversion import convert, known_paths, unknown_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Section):
  prefix: ClassVar = 'parts.<name>.'

  size: int = setting(1, 'Size.', above=0)
  rate: float | None = setting(None, 'Rate.')
  widths: tuple[int, ...] = setting((), 'Widths.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Section):
  file: str | None = setting(None, 'A file.', path=True)
  other: str = setting('', 'No path.')
  part: Part = dataclasses.field(default_factory=Part)
  parts: dict[str, Part] = setting(meaning='Parts.', factory=dict)


def test_values_take_the_types_of_their_fields():
  whole = convert(Whole, {'part': {'rate': 1, 'widths': [1, 2]}, 'parts': {'b': {}, 'a': {}}})
  assert whole.part == Part(rate=1.0, widths=(1, 2))
  assert isinstance(whole.part.rate, float)
  assert list(whole.parts) == ['b', 'a']


def test_a_tilde_is_expanded_only_in_paths(monkeypatch):
  monkeypatch.setenv('HOME', '/home/somebody')
  whole = convert(Whole, {'file': '~/x', 'other': '~/x'})
  assert (whole.file, whole.other) == (os.path.join('/home/somebody', 'x'), '~/x')


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'parts': {'red': {'size': 0}}}, r'^parts.red.size must be positive; got 0. Set --config.parts.red.size$'),
    ({'parts': {'red': {'size': '1'}}}, r"^parts.red.size must be of type int; got '1'"),
    ({'parts': {'red': 3}}, r'^parts.red must be a section of fields; got 3'),
    ({'parts': 3}, r'^parts must be a section of named fields; got 3'),
    ({'part': {'rate': True}}, r'^part.rate must be of type float or None; got True'),
    ({'part': {'rate': math.inf}}, r'^part.rate must be a finite number; got inf. Set --config.part.rate$'),
    ({'part': {'rate': math.nan}}, r'^part.rate must be a finite number; got nan'),
    ({'part': {'widths': 3}}, r'^part.widths must be a tuple; got 3'),
    ({'parts': {'red': {'sise': 1}}}, r'^unknown config field parts.red.sise; did you mean parts.red.size'),
  ],
)  # fmt: skip
def test_errors_name_the_path(values, message):
  with pytest.raises(ValueError, match=message):
    convert(Whole, values)


def test_an_unknown_field_is_answered_with_the_nearest_known_ones():
  known = list(known_paths(Whole, {'parts': {'red': {}}}))
  assert 'parts.red.widths' in known
  assert 'part.size' in known
  assert 'did you mean part.size or parts.red.size' in unknown_field('size', known)
  assert 'did you mean' not in unknown_field('qqqqqq', known)
