"""One version of the catalogue as answers show it: titles, SID paths and the search by title."""

from collections.abc import Mapping, Sequence
from typing import Any

from recjax.decode.catalogue import Catalogue
from recjax.serve.titles import Titles
from recjax.sids.token_space import sid_name


class View:
  """The items of a catalogue.

  Attributes:
    catalogue: the catalogue.
    version: names it in answers.
  """

  def __init__(self, catalogue: Catalogue, keywords: Mapping[str, Sequence[str]]):
    """Builds the index of titles.

    Args:
      catalogue: the items.
      keywords: those of every code, by its token such as <a_3>; a code may have none.
    """
    self.catalogue, self.version, self._keywords = catalogue, catalogue.version, keywords
    self._titles = Titles(catalogue.items, catalogue.popularity_I)

  @property
  def size(self) -> int:
    """Number of items."""
    return len(self.catalogue.items)

  def search(self, text: str, limit: int) -> list[dict[str, Any]]:
    """Returns items by words of their title or by id, the most popular first."""
    return [self.named(item) for item in self._titles.search(text, limit)]

  def named(self, item: int) -> dict[str, Any]:
    """Returns id and title of an item index."""
    fields = self.catalogue.items[item]
    return {'item': fields['id'], 'title': fields.get('title')}

  def path(self, id: str) -> list[dict[str, Any]]:
    """Returns the codes of an item, each with its keywords where it has some."""
    codes_L = self.catalogue.dataset.sids.codes_IL[self.catalogue.index[id]]
    names = [sid_name(level, code) for level, code in enumerate(codes_L.tolist())]
    return [{'code': name, 'keywords': list(self._keywords.get(name, ()))} for name in names]
