"""Cleans a range of users: chooses rows, sorts them, and finds rows that repeat others."""

import dataclasses
from typing import Any

import numpy as np

from data_prep.beam import blocks
from data_prep.beam.blocks import Block
from data_prep.log import sorting

SHOWN = 10  # rows with unknown items, for a message


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is known of all items and events when ranges are cleaned.

  Attributes:
    num_items: I, the number of distinct items of the log.
    known_I: bool, the items with a record; None: rows of all items are kept.
    is_kept_E: bool, the events that are targets or context; None: all.
    is_context_E: bool, the events that are never targets; None: none.
  """

  num_items: int
  known_I: np.ndarray | None = None
  is_kept_E: np.ndarray | None = None
  is_context_E: np.ndarray | None = None

  def is_context(self, block: Block) -> np.ndarray | None:
    """Returns bool `[n]`, the rows that are never targets; None: no row is."""
    return None if self.is_context_E is None else self.is_context_E[block.events]


@dataclasses.dataclass(frozen=True)
class Cleaned:
  """A clean range.

  Attributes:
    block: its rows by user, time, targets before context, row; users are numbered by their sorted ids.
    facts: see `clean`.
    chosen_I: int64 `[I]`, rows of every item after the choice of events.
    left_I: int64 `[I]`, rows of every item in `block`.
  """

  block: Block
  facts: dict[str, Any]
  chosen_I: np.ndarray
  left_I: np.ndarray


def clean(block: Block, rules: Rules) -> Cleaned:
  """Cleans the rows of a range, in any order.

  The facts are: rows (of `block`), users, targets, seen (rows before the choice), dropped (rows that repeat another), equal_times,
  repeat (None, or the first row in the file that repeats another: its number, that of the first equal row, user, item
  and events) and unknown (up to ten first rows with unknown items: row number and item).
  """
  seen = len(block)
  if rules.is_kept_E is not None:
    block = block.take(rules.is_kept_E[block.events])
  chosen_I = np.bincount(block.items, minlength=rules.num_items)
  unknown = []
  if rules.known_I is not None:
    is_known = rules.known_I[block.items]
    gone = np.flatnonzero(~is_known)
    gone = gone[np.argsort(block.rows[gone], kind='stable')][:SHOWN]
    unknown = [block.rows[gone].tolist(), block.items[gone].tolist()]
    block = block.take(is_known)
  is_context = rules.is_context(block)
  by_row = np.argsort(block.rows, kind='stable')
  keys = (block.times[by_row], block.users[by_row])
  if is_context is not None:
    keys = (is_context[by_row], *keys)
  block = block.take(by_row[np.lexsort(keys)])
  is_tie = sorting.ties(block.users, block.times)
  repeated = sorting.repeated_rows(block.items, is_tie)
  facts = {
    'seen': seen,
    'dropped': int(repeated.sum()),
    'equal_times': int(is_tie.sum()) - int(repeated.sum()),
    'repeat': _repeat(block, repeated),
    'unknown': unknown,
  }
  block = blocks.compact(block.take(~repeated))
  is_context = rules.is_context(block)
  targets = len(block) if is_context is None else int((~is_context).sum())
  facts |= {'rows': len(block), 'users': len(block.user_ids), 'targets': targets}
  return Cleaned(block, facts, chosen_I, np.bincount(block.items, minlength=rules.num_items))


def _repeat(block: Block, repeated: np.ndarray) -> dict[str, Any] | None:
  """The first row of the file that repeats another; see `clean`."""
  if not repeated.any():
    return None
  at = np.flatnonzero(repeated)
  at = at[np.argmin(block.rows[at])]
  equal = np.flatnonzero(
    (block.users == block.users[at])
    & (block.items == block.items[at])
    & (block.times == block.times[at])
  )
  first = equal[np.argmin(block.rows[equal])]
  return {
    'rows': [int(block.rows[first]), int(block.rows[at])],
    'user': block.user_ids[int(block.users[at])].as_py(),
    'item': int(block.items[at]),
    'events': None if block.events is None else block.events[[first, at]].tolist(),
  }
