"""What a recommender is asked and what it answers."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

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
