"""Treats what a source reads as the preparation does."""

import collections
from typing import Any

from data_prep.log import interactions, item_text
from data_prep.log.raw_log import RawLog


def cleaned(log: RawLog) -> interactions.CleanLog:
  """Returns the clean log, without a k-core."""
  return interactions.clean(log, 0, 'drop')


def tidied(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Returns the records as the catalogue of a prepared folder holds them, without the encoders' text."""
  return {item: item_text.tidy(record, collections.Counter()) for item, record in records.items()}


def changes(records: dict[str, dict[str, Any]]) -> dict[str, int]:
  """Returns the number of fields that were dropped, cut or cleaned, as the statistics state them."""
  counts = collections.Counter()
  for record in records.values():
    item_text.tidy(record, counts)
  return {name: count for name, count in sorted(counts.items()) if count}
