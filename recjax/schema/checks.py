"""Config fields with a meaning and rules. Errors name the rule, the value and the field to set."""

from collections.abc import Iterator
import contextlib
import dataclasses
import re
from typing import Any, ClassVar

from recjax.schema.names import question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """Rules for one field's value. For a tuple they apply to every item. None always passes."""

  one_of: tuple[str, ...] = ()
  above: float | None = None
  at_least: float | None = None
  at_most: float | None = None
  below: float | None = None
  pattern: bool = False  # a regular expression
  filled: bool = False  # must not be empty
  path: bool = False  # a path that the user gives; a leading ~ is expanded

  def violation(self, value: Any) -> str | None:
    """Returns the broken rule as words that follow 'must'; None if the value obeys all rules."""
    if self.one_of and value not in self.one_of:
      return f'be one of {", ".join(self.one_of)}'
    in_range = (
      (self.above is None or value > self.above)
      and (self.at_least is None or value >= self.at_least)
      and (self.at_most is None or value <= self.at_most)
      and (self.below is None or value < self.below)
    )
    if not in_range:
      return self.range
    if self.pattern:
      try:
        re.compile(value)
      except re.error as error:
        return f'be a regular expression ({error})'
    return None

  @property
  def range(self) -> str:
    """The allowed range as words that follow 'must'; empty if there is no limit."""
    low, high = (self.above, self.at_least), (self.at_most, self.below)
    if high != (None, None) and low != (None, None):
      left = f'({self.above:g}' if self.at_least is None else f'[{self.at_least:g}'
      right = f'{self.below:g})' if self.at_most is None else f'{self.at_most:g}]'
      return f'be in {left}, {right}'
    if self.above is not None:
      return 'be positive' if self.above == 0 else f'be above {self.above:g}'
    if self.at_least is not None:
      return 'not be negative' if self.at_least == 0 else f'be at least {self.at_least:g}'
    if self.at_most is not None:
      return f'be at most {self.at_most:g}'
    return f'be below {self.below:g}' if self.below is not None else ''


def setting(
  default: Any = dataclasses.MISSING,
  meaning: str = '',
  *,
  factory: Any = dataclasses.MISSING,
  **rules: Any,
) -> Any:
  """Returns a dataclass field that carries its meaning and its rules.

  Args:
    default: the field's default. Without a default and without `factory` the config must set the field.
    meaning: one line in plain English, with the unit.
    factory: returns the default, such as `dict`.
    **rules: the fields of `Rules`: one_of, above, at_least, at_most, below, pattern, filled, path.
  """
  metadata = {'meaning': meaning, 'rules': Rules(**rules)}
  return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


class Section:
  """A section of the config. Checks its fields' rules on construction."""

  # Path of the section in the config, such as 'model.'. <…> stands for a name that the user chooses.
  prefix: ClassVar[str] = ''
  # Fields that earlier versions lacked. At their defaults they are left out of what identifies prepared data.
  later: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    check_settings(self)

  def identifying(self) -> dict[str, Any]:
    """Returns the fields that identify prepared data, of nested sections too, as JSON; see `later`."""
    found = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name not in self.later or value != field.default:
        found[field.name] = value.identifying() if isinstance(value, Section) else value
    return found

  @classmethod
  @contextlib.contextmanager
  def called(cls, path: str) -> Iterator[None]:
    """Makes errors raised inside the block name the section's fields by `path`.

    Args:
      path: path of this section in the config, without a dot at the end.
    """
    with called(cls.prefix.removesuffix('.') or path, path):
      yield


def check_settings(section: Any) -> None:
  """Checks every field of a section by the rules in its metadata.

  Raises:
    ValueError: a value breaks a rule.
  """
  for field in dataclasses.fields(section):
    rules = field.metadata.get('rules')
    value = getattr(section, field.name)
    if rules is None or value is None:
      continue
    path = section.prefix + field.name
    check(not rules.filled or len(value) > 0, f'{path} must not be empty', value, path)
    is_tuple = isinstance(value, tuple)
    for item in value if is_tuple else (value,):
      must = rules.violation(item)
      each = 'every value of ' if is_tuple else ''
      meant = question(item, rules.one_of)
      check(must is None, f'{each}{path} must {must}', value, path, meant)


@contextlib.contextmanager
def called(generic: str, path: str) -> Iterator[None]:
  """Replaces a section's generic path by its path in this config, in ValueErrors raised inside the block.

  Args:
    generic: the generic path, such as 'optim.groups.<name>'.
    path: the path in this config, such as 'optim.groups.sids'.
  """
  try:
    yield
  except ValueError as error:
    raise ValueError(str(error).replace(generic, path)) from None


def check(condition: bool, must: str, got: Any, field: str, question: str = '') -> None:
  """Checks one rule.

  Args:
    condition: whether the rule holds.
    must: the rule as a sentence, such as 'eval.ks must hold 10'.
    got: the value.
    field: path of the field that the message tells the user to set.
    question: which value was probably meant; see `names.question`.

  Raises:
    ValueError: the condition is False. The message is one line.
  """
  if not condition:
    raise ValueError(f'{must}; got {got!r}{question or "."} Set --config.{field}')


def check_choice(value: str, choices: tuple[str, ...], field: str) -> None:
  """Raises a ValueError if the value is not among the choices; it suggests the nearest ones."""
  must = f'{field} must be one of {", ".join(choices)}'
  check(value in choices, must, value, field, question(value, choices))
