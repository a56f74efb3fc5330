"""Reads prices of catalogues: numbers with currencies, thousands separators and decimal commas."""

import decimal
import math
import re
from typing import Any

_LARGEST = 1e15
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)
_CURRENCY = r'(?:[A-Z]{0,3}\s?[$€£¥₹₩₽฿]|[A-Z]{3}\b|[Rr]s\.?|[Kk]r\.?|zł)'
_DIGITS = r'\d[\d.,\' \u00a0\u202f]*?|\.\d+'
# An amount, optionally with a currency before or after it; or a range, whose lower end is taken.
_AMOUNT = re.compile(
  rf'(?:[Ff]rom\s+)?{_CURRENCY}?\s*({_DIGITS})\s*{_CURRENCY}?'
  rf'(?:\s*[-–—]\s*{_CURRENCY}?\s*(?:{_DIGITS})\s*{_CURRENCY}?)?'
)
_GROUPS = re.compile(r"\d{1,3}([.,' ])\d{3}(?:\1\d{3})*")


def price(value: Any) -> float | None:
  """Returns the price that a value holds: a number, or a text with an amount; for a range, its lower end.

  Texts are read as '12.99', '$1,299.00', '12,99 €', '1.299,00', 'from 3.99' and '$5.99 - $12.99'.
  A comma before three digits separates thousands; before one or two digits it is a decimal comma.

  Returns None for any other value, such as '—', 'NaN', 'call us' or a fragment of a web page.
  """
  if isinstance(value, str):
    value = _parse(value.strip())
  elif isinstance(value, decimal.Decimal):
    value = float(value)
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return value if is_number and abs(value) < _LARGEST else None  # False for NaN


def _parse(text: str) -> float:
  """The amount in a text; NaN if there is none."""
  if len(text) > 100:
    return math.nan
  if _NUMBER.fullmatch(text):
    return float(text)
  amount = _AMOUNT.fullmatch(text)
  return _parse_digits(amount[1].strip()) if amount else math.nan


def _parse_digits(digits: str) -> float:
  """An amount with separators as a number; NaN if the separators are inconsistent."""
  digits = re.sub('[\u00a0\u202f]', ' ', digits).rstrip('.,')
  marks = [mark for mark in digits if mark in '.,']
  point = ''
  if '.' in marks and ',' in marks:  # the last one is the decimal point
    point = marks[-1]
  elif marks and marks.count(marks[0]) == 1:
    decimals = len(digits) - digits.index(marks[0]) - 1
    point = marks[0] if marks[0] == '.' or decimals in (1, 2) else ''
  integer, _, fraction = digits.rpartition(point) if point else (digits, '', '')
  if integer and not integer.isdigit() and not _GROUPS.fullmatch(integer):
    return math.nan
  if fraction and not fraction.isdigit():
    return math.nan
  integer = re.sub("[.,' ]", '', integer)
  return float(f'{integer or 0}.{fraction or 0}')
