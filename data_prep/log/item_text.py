"""What a catalogue says of an item, tidied, and the text that encoders read of it."""

import html
import re
from typing import Any

MAX_DESCRIPTION = 2_000  # characters of a description that encoders get to read
# Surrogates too: JSON can spell half of a character, and UTF-8 cannot.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')


def item_row(item_id: str, record: dict[str, Any]) -> dict[str, Any]:
  """One line of items.jsonl: the known fields with entities and white space tidied, and the text."""
  row: dict[str, Any] = {'id': item_id}
  for field in ('title', 'brand', 'description'):
    if value := tidy(record.get(field) or ''):
      row[field] = value
  if paths := [[tidy(part) for part in path] for path in record.get('categories') or [] if path]:
    row['categories'] = paths
  if record.get('price') is not None:
    row['price'] = record['price']
  return {**row, 'text': encoder_text(row)}


def encoder_text(record: dict[str, Any]) -> str:
  """What encoders read of an item: title, brand and category paths, in this order.

  A description, cut at `MAX_DESCRIPTION` characters, stands in where there is no category. An item of
  which nothing is known has the empty text.
  """
  parts = [record.get('title', ''), record.get('brand', '')]
  if record.get('categories'):
    parts += [' > '.join(path) for path in record['categories']]
  else:
    parts.append(record.get('description', '')[:MAX_DESCRIPTION])
  return '. '.join(part for part in parts if part)


def tidy(text: str) -> str:
  """Plain text from a catalogue's: entities resolved, control characters and white space made one space.

  It may hold what looks like HTML: '&lt;b&gt;' becomes '<b>'. Whoever shows it in a page escapes it.
  """
  return ' '.join(_CONTROL.sub(' ', html.unescape(text)).split())
