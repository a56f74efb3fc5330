"""The rules in a field's metadata, and the errors of broken ones."""

import dataclasses
from typing import ClassVar

import pytest

from recjax.schema.checks import Section, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Section):
  prefix: ClassVar = 'toys.<name>.'

  mode: str = setting('a', 'The mode.', one_of=('a', 'b'))
  size: int = setting(1, 'Size in tokens.', above=0)
  wait: float = setting(0.0, 'Seconds; 0: none.', at_least=0)
  count: int = setting(2, 'Candidates.', at_least=2)
  share: float = setting(0.5, 'A share.', at_least=0, below=1)
  rate: float = setting(0.5, 'A rate.', above=0, below=1)
  part: float = setting(1.0, 'A part.', at_least=0, at_most=1)
  widths: tuple[int, ...] = setting((1,), 'Widths.', above=0, filled=True)
  regex: str = setting('a|b', 'A pattern.', pattern=True)
  limit: int | None = setting(None, 'None: no limit.', above=0)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('mode', 'c', r"toys.<name>.mode must be one of a, b; got 'c'. Set --config.toys.<name>.mode$"),
    ('size', 0, r'toys.<name>.size must be positive; got 0. Set --config.toys.<name>.size$'),
    ('wait', -1.0, r'wait must not be negative; got -1.0'),
    ('count', 1, r'count must be at least 2; got 1'),
    ('share', 1.0, r'share must be in \[0, 1\); got 1.0'),
    ('rate', 0.0, r'rate must be in \(0, 1\); got 0.0'),
    ('part', 1.5, r'part must be in \[0, 1\]; got 1.5'),
    ('widths', (4, 0), r'every value of toys.<name>.widths must be positive; got \(4, 0\)'),
    ('widths', (), r'widths must not be empty; got \(\)'),
    ('regex', '(', r"regex must be a regular expression \(.*\); got '\('. Set --config.*regex$"),
    ('limit', 0, r'limit must be positive; got 0'),
  ],
)
def test_a_broken_rule_names_the_field(name, value, message):
  with pytest.raises(ValueError, match=message):
    Toy(**{name: value})


def test_values_at_the_limits_pass():
  Toy(mode='b', count=2, share=0.0, part=1.0, widths=(1, 2), limit=None)
  assert Toy(limit=3).limit == 3
  assert dataclasses.fields(Toy)[1].metadata['meaning'] == 'Size in tokens.'


def test_called_replaces_the_generic_path_in_errors():
  message = r'^toys.red.size must be positive; got 0. Set --config.toys.red.size$'
  with pytest.raises(ValueError, match=message), Toy.called('toys.red'):
    Toy(size=0)
