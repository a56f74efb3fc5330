"""Finds items by words of their title or by their id."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SEPARATOR = '\n'
_MOST_LINES = 200_000  # lines with the longest word that one search looks at


class Titles:
  """An index of titles: one text with a line an item, the most popular first, which a search scans."""

  def __init__(self, items: Sequence[Mapping[str, Any]], popularity_I: np.ndarray):
    """Writes the text.

    Args:
      items: the catalogue: `id`, and optionally `title`.
      popularity_I: decides the order.
    """
    self._order_I = np.argsort(-popularity_I, kind='stable')
    self._index = {item['id']: i for i, item in enumerate(items)}
    lines = (_line(items[i]) for i in self._order_I)
    starts, parts, at = [], [], 0
    for line in lines:
      starts.append(at)
      parts.append(line)
      at += len(line) + 1
    self._text, self._starts = _SEPARATOR.join(parts), starts

  def search(self, text: str, limit: int) -> list[int]:
    """Returns the indices of items whose title or id contains every word of a text, upper case or not.

    The item with this id comes first, the others by popularity. An empty text finds all.
    """
    words = sorted(_folded(text).split(), key=len, reverse=True)
    exact = self._index.get(text.strip())
    found = [] if exact is None else [exact]
    at = 0
    for _ in range(_MOST_LINES):
      at = self._text.find(words[0], at) if words else at
      if at < 0 or at >= len(self._text) or len(found) >= limit:
        break
      place = bisect.bisect_right(self._starts, at) - 1
      end = self._starts[place + 1] if place + 1 < len(self._starts) else len(self._text) + 1
      line = self._text[self._starts[place] : end - 1]
      item = int(self._order_I[place])
      if item != exact and all(word in line for word in words[1:]):
        found.append(item)
      at = end
    return found[:limit]


def _line(item: Mapping[str, Any]) -> str:
  text = f'{item.get("title") or ""} {item["id"]}'
  return ' '.join(_folded(text).split())  # a line break would end the line


def _folded(text: str) -> str:
  return text.casefold()
