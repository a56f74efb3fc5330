"""The registry of tasks. A task makes an example from a unit of the data (a window, an item, …)."""

from recjax.data.tasks.base import Component as Component
from recjax.data.tasks.language import (
  DescriptionToToken,
  HistoryToTitle,
  SidToTitle,
  TitleToSid,
  TokenToDescription,
)
from recjax.data.tasks.masked import Mim, Mlm
from recjax.data.tasks.neighbours import CollaborativeNeighbours, SemanticNeighbours
from recjax.data.tasks.next_item import NextItem
from recjax.data.tasks.preference import Bpr, Ranking, Rating
from recjax.schema.overrides import TASKS

TASKS |= {
  kind.task: kind
  for kind in (
    NextItem,
    Ranking,
    Rating,
    Mim,
    Mlm,
    Bpr,
    CollaborativeNeighbours,
    SemanticNeighbours,
    TitleToSid,
    SidToTitle,
    HistoryToTitle,
    TokenToDescription,
    DescriptionToToken,
  )
}
