"""What a recommender is asked and what it answers."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

# Item ids, oldest first; or a mapping with `history` and optionally `times` (seconds since 1970) and `events`.
History = Sequence[str] | Mapping[str, Any]
# A name of a sub-catalogue, an expression of names such as 'in_stock & ~adult', or item ids.
Within = str | Collection[str]


class Recommendation(NamedTuple):
  """A recommended item.

  Attributes:
    item: its id in the log.
    title: its title; None: the item table has none.
    score: log-probability of its semantic ID; where candidates have several scores, their weighted sum.
  """

  item: str
  title: str | None
  score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """One question to a recommender.

  Attributes:
    history: item ids, oldest first, or a mapping with `history` and the columns that the model reads.
    k: items to return, at most the beams of the search.
    within: the items that may be returned. None: all.
    exclude: ids of items that are not returned; ids that are not in the catalogue have no effect.
    candidates: ids of the only items that are scored, each exactly, without a search; items of the history are among
      them if they are named. None: the search finds items.
    beams: beams of the search. None: those of the recommender. Every other number is compiled once.
    unknown: 'error', or 'skip' to leave out items of the history that are not in the catalogue.
  """

  history: History
  k: int = 10
  within: Within | None = None
  exclude: Collection[str] = ()
  candidates: Sequence[str] | None = None
  beams: int | None = None
  unknown: str = 'error'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """The answer to one request.

  Attributes:
    recommendations: the items, best first.
    unknown: items of the history that are not in the catalogue and were left out.
    note: what the reader of the answer must know, in words. None: nothing.
    error: why there is no answer. None: there is one.
  """

  recommendations: list[Recommendation] = dataclasses.field(default_factory=list)
  unknown: list[str] = dataclasses.field(default_factory=list)
  note: str | None = None
  error: str | None = None


def listed(histories: Any) -> tuple[bool, list[Any]]:
  """Returns whether one history was given instead of a sequence of them, and the histories.

  Raises:
    ValueError: the argument is neither.
  """
  if isinstance(histories, Mapping):
    return True, [histories]
  is_ordered = is_collection(histories) and not isinstance(histories, set | frozenset)
  check(is_ordered, 'a history must be a list of item ids, oldest first', histories)
  histories = list(histories)
  nested = [not is_id(each) for each in histories]
  if not any(nested):
    return True, [histories]
  check(all(nested), 'histories must be item ids or lists of item ids, not both', histories)
  return False, histories


def ids(values: Any, name: str) -> Collection[Any]:
  """Returns ids that may be read several times.

  Raises:
    ValueError: the argument `name` is no collection.
  """
  check(is_collection(values), f'{name} must be a collection of ids', values)
  return values if isinstance(values, Collection) else list(values)


def streamed(histories: Any) -> tuple[bool, Any]:
  """Returns whether an iterator of histories was given, and the histories. An iterator of ids is one history."""
  if not isinstance(histories, Iterator):
    return False, histories
  start = list(itertools.islice(histories, 1))
  histories = itertools.chain(start, histories)
  if start and is_id(start[0]):
    return False, list(histories)
  return True, histories


def windows(values: Iterator[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
  """Yields consecutive windows of an iterator, each with the number of its first value."""
  first = 0
  while window := list(itertools.islice(values, size)):
    yield first, window
    first += len(window)


def with_candidates(
  histories: Iterator[Any], candidates: Any
) -> Iterator[tuple[Any, Collection[Any]]]:
  """Yields every history with its candidates.

  Args:
    histories: the histories.
    candidates: item ids for all of them, or a sequence or an iterator of ids for each.

  Raises:
    ValueError: the candidates are neither, or their number differs from that of the histories.
  """
  check(is_collection(candidates), 'candidates must be a collection of ids', candidates)
  is_stream, candidates = streamed(candidates)
  if not is_stream:
    candidates = ids(candidates, 'candidates')
    nested = [not is_id(each) for each in candidates]
    if not any(nested):
      yield from ((history, candidates) for history in histories)
      return
    check(all(nested), 'candidates must be item ids or lists of item ids, not both', candidates)
  missing = object()
  for n, (history, given) in enumerate(
    itertools.zip_longest(histories, candidates, fillvalue=missing)
  ):
    must = f'candidates must be one list of ids, or a list for every history; history {n}'
    check(history is not missing, must, 'more lists than histories')
    check(given is not missing, must, 'fewer lists than histories')
    yield history, ids(given, 'candidates')


def check(condition: bool, must: str, got: Any) -> None:
  """Raises a ValueError unless a condition holds."""
  if not condition:
    raise ValueError(f'{must}; got {repr(got)[:80]}')


def is_id(value: Any) -> bool:
  """Returns whether a value may be an item id: a string or a whole number."""
  return isinstance(value, str | int | np.integer)


def is_collection(value: Any) -> bool:
  """Returns whether a value may be a collection of ids."""
  return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def is_count(value: Any) -> bool:
  """Returns whether a value is a positive whole number."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0
