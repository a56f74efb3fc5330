"""Tidies catalogue records of all sources, and builds the item text that encoders read.

Invalid descriptive fields are cleaned, cut or dropped, and counted; they raise no error.
"""

from collections import Counter
from collections.abc import Callable, Mapping
import decimal
import functools
import html
import math
import re
from typing import Any

from data_prep.log import prices
from recjax.schema.data import Data, placeholders

MAX_TITLE = 10_000  # characters; longer titles, brands and category names are cut
# Control characters, and lone surrogates: JSON can contain them, UTF-8 cannot.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_MISSING = frozenset(('', '-', '–', '—', '?', '.', 'nan', 'none', 'null', 'n/a', '#n/a', '<na>'))
# Elements whose content is not text (up to the end of the field if unclosed), and comments.
_NOT_TEXT = re.compile(
  r'<(script|style|noscript|template)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)',
  re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(
  r'</?(?:a|abbr|article|b|big|blockquote|body|br|button|center|code|dd|div|dl|dt|em|figure|font|footer|form|'
  r'h[1-6]|head|header|hr|html|i|iframe|img|input|label|li|link|meta|nav|object|ol|option|p|pre|s|section|select|'
  r'small|span|strong|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|video)\b'
  r'(?:\s[^<>]*|\s*/)?>',
  re.IGNORECASE,
)
_MARKUP = re.compile('</?[a-z]|<!--', re.IGNORECASE)  # also of a tag that was cut off
# Scripts and rules of style sheets that a crawl took for text.
_SCRIPT = re.compile(
  r'\bvar\s+\w+\s*=|\bfunction\s*\w*\s*\([^)]{0,500}\)\s*\{|\bdocument\.(?:getElement|write|query)'
)
_STYLE = re.compile(r'\{\s*[\w-]+\s*:[^{}]*\}?')
_SHORT_STYLE = re.compile(r'\{[a-z-]+:[^\s{}]*\}')
_CLASS = re.compile('[.#@][a-z]', re.IGNORECASE)

Text = Callable[[Mapping[str, Any]], str]  # tidied fields → the text for encoders
Counts = Counter[str]  # '<field>_dropped', '<field>_cut' and '<field>_cleaned' → number of items


def item_row(
  item_id: str,
  record: Mapping[str, Any],
  counts: Counts | None = None,
  text: Text | None = None,
) -> dict[str, Any]:
  """Returns an object of items.jsonl: the id, the tidied fields, and the text for encoders."""
  row = {'id': item_id, **tidy(record, Counter() if counts is None else counts)}
  return {**row, 'text': (text or encoder_text)(row)}


def tidy(record: Mapping[str, Any], counts: Counts) -> dict[str, Any]:
  """Returns the readable fields of a catalogue record.

  Args:
    record: any of title, brand, description (text, a list of texts, or a number), categories (a list of
      paths, one path, or one name) and price (a number or text). Other types and fields are dropped.
    counts: for every changed field, `<field>_dropped` (not readable), `<field>_cut` (too long) or
      `<field>_cleaned` (markup or code removed, or bytes replaced that are not UTF-8) is raised by one.
      Entities and white space are not counted.
  """
  tidied: dict[str, Any] = {}
  for field in ('title', 'brand', 'description'):
    if value := _text_field(field, record.get(field), counts):
      tidied[field] = value
  if paths := _paths(record.get('categories'), counts):
    tidied['categories'] = paths
  price = record.get('price')
  if price is not None and price != '':
    number = prices.price(price)
    if number is None:
      counts['price_dropped'] += 1
    else:
      tidied['price'] = number
  return tidied


def _text_field(field: str, value: Any, counts: Counts) -> str:
  """The readable text of a field; empty if there is none. Counts changes."""
  if value is None or value == '' or value == []:
    return ''
  if isinstance(value, list | tuple):
    value = ' '.join(part for part in value if isinstance(part, str) and part) or None
  elif isinstance(value, int | float | decimal.Decimal) and not isinstance(value, bool):
    value = str(value) if math.isfinite(value) else None
  text, is_cleaned = _readable(value) if isinstance(value, str) else ('', False)
  if not text:
    is_blank = isinstance(value, str) and not plain(value)
    counts[f'{field}_dropped'] += not is_blank
    return ''
  if field != 'description' and len(text) > MAX_TITLE:
    counts[f'{field}_cut'] += 1
    return text[:MAX_TITLE].rstrip()
  counts[f'{field}_cleaned'] += is_cleaned
  return text


def _readable(value: str) -> tuple[str, bool]:
  """Plain text without markup and code, empty if it is not readable; and whether anything was removed or was not UTF-8."""
  without = _TAG.sub(' ', _NOT_TEXT.sub(' ', value)) if '<' in value else value
  whole = plain(without)
  text = _without_code(whole)
  is_readable = text.lower() not in _MISSING and 2 * len(text) >= len(whole)  # else it is code
  return text if is_readable else '', without != value or text != whole or '\ufffd' in value


def _without_code(text: str) -> str:
  """Text without the rules of style sheets, cut where a script begins; its words are joined by one space."""
  if '{' in text:
    text = _without_styles(text)
  if '=' in text or '(' in text:
    script = _SCRIPT.search(text)
    text = text[: script.start()] if script else text
  return ' '.join(text.split())


def _without_styles(text: str) -> str:
  kept, end = [], 0
  for block in _STYLE.finditer(text):
    before = text[end : block.start()]
    words = before.split()
    selector = words[-1] if words else ''
    is_short = before[-1:].isalnum() and _SHORT_STYLE.fullmatch(block[0])
    if _CLASS.search(selector) or ';' in block[0] or is_short:
      words = words[:-1]
      while words and (
        words[-1][0] in '.#@' or words[-1][-1] in ',>'
      ):  # a selector of several words
        words.pop()
      kept.append(f' {" ".join(words)} ')
    else:
      kept.append(text[end : block.end()])
    end = block.end()
  return ''.join([*kept, text[end:]])


def _paths(value: Any, counts: Counts) -> list[list[str]]:
  """The category paths of readable names. A path is cut before its first name with markup or code."""
  if value is None or value == '' or value == []:
    return []
  paths = [value] if isinstance(value, str) else value
  if not isinstance(paths, list | tuple):
    counts['categories_dropped'] += 1
    return []
  if all(isinstance(part, str) for part in paths):
    paths = [paths]
  found, is_changed = [], False
  for path in paths:
    names: list[str] = []
    for part in path if isinstance(path, list | tuple) else (path,):
      text = _readable(part)[0] if isinstance(part, str) else ''
      if (
        not isinstance(part, str)
        or _MARKUP.search(part)
        or plain(part) != _without_code(plain(part))
      ):
        is_changed = True
        break
      if text:
        names.append(text[:MAX_TITLE])
        is_changed |= '\ufffd' in text
      else:
        is_changed |= bool(plain(part))
    if names:
      found.append(names)
  counts['categories_cleaned' if found else 'categories_dropped'] += is_changed
  return found


def encoder_text(
  record: Mapping[str, Any],
  text_format: str | None = None,
  description_chars: int = Data.description_chars,
) -> str:
  """Returns the item text for encoders: title, brand and category paths, in this order.

  If there are no categories, the description replaces them. The text is empty if the item has none of these fields.

  Args:
    record: the tidied fields of an item.
    text_format: replaces this rule by a text with placeholders of `TEXT_FIELDS`, see `data.text_format`. The text is
      empty if the item has none of its fields.
    description_chars: characters at which the description is cut.
  """
  fields = {name: record.get(name, '') for name in ('title', 'brand', 'price')}
  fields['description'] = record.get('description', '')[:description_chars]
  fields['categories'] = '. '.join(' > '.join(path) for path in record.get('categories', ()))
  if text_format is not None:
    is_empty = not any(fields[name] not in ('', None) for name in placeholders(text_format))
    return '' if is_empty else text_format.format(**fields).strip()
  parts = [fields['title'], fields['brand'], fields['categories'] or fields['description']]
  return '. '.join(part for part in parts if part)


def plain(text: str) -> str:
  """Returns text with entities resolved; runs of control characters and white space become one space.

  The result may contain HTML: '&lt;b&gt;' becomes '<b>'. Escape it before writing it into a page.
  """
  return ' '.join(_CONTROL.sub(' ', html.unescape(text)).split())


def of(data: Data) -> Text:
  """Returns the function that makes the texts of a data section."""
  return functools.partial(
    encoder_text, text_format=data.text_format, description_chars=data.description_chars
  )
