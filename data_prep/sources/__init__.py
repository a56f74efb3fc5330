"""Sources: each reads raw files of one kind into a `RawLog`, imported only when it is asked for."""

import dataclasses
import importlib
from typing import Any

from etils import epath

from data_prep.log import interactions
from recjax import config
from recjax.data.sequences import Sequences


@dataclasses.dataclass(frozen=True)
class Source:
  """A way to read a log.

  Attributes:
    module: holds `load(data, raw_dir) -> RawLog` and, if `reads_files`, `input_files(data, raw_dir)`
      (name → path of what `load` reads, whether there or not) and `fetch(data, raw_dir)` (downloads
      what is missing if `data.download` says so, and raises FileNotFoundError if files are missing).
    fields: the fields of the data section that change what `load` gives.
    reads_files: whether there are raw files.
    has_optimum: whether its module also holds `optimum(data, histories, ks)`: the law is known.
  """

  module: str
  fields: tuple[str, ...]
  reads_files: bool
  has_optimum: bool = False

  def load(self, data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
    """Reads the log; raises ValueError for bad input, naming the file and the line."""
    return self._import().load(data, raw_dir)

  def params(self, data: config.Data) -> dict[str, Any]:
    return {'source': data.source} | {name: getattr(data, name) for name in self.fields}

  def input_files(self, data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
    return self._import().input_files(data, raw_dir) if self.reads_files else {}

  def fetch(self, data: config.Data, raw_dir: epath.Path) -> None:
    if self.reads_files:
      self._import().fetch(data, raw_dir)

  def optimum(
    self, data: config.Data, histories: Sequences, ks: tuple[int, ...]
  ) -> dict[str, float]:
    """The best possible expected metrics of the next item after the histories."""
    return self._import().optimum(data, histories, ks)

  def _import(self) -> Any:
    return importlib.import_module(self.module)


_AMAZON = Source('data_prep.sources.amazon', ('category', 'catalogue'), reads_files=True)
_COLUMNS = tuple(f'{name}_column' for name in ('user', 'item', 'time', 'rating', 'event'))

SOURCES = {
  'amazon2014': _AMAZON,
  'amazon2018': _AMAZON,
  'amazon2023': _AMAZON,
  'minionerec': Source('data_prep.sources.minionerec', ('category',), reads_files=True),
  'movielens': Source('data_prep.sources.movielens', ('category',), reads_files=True),
  'recbole': Source('data_prep.sources.recbole', ('category',), reads_files=True),
  'sequences_json': Source('data_prep.sources.sequences_json', ('category',), reads_files=True),
  'synthetic': Source(
    'data_prep.sources.synthetic',
    ('synthetic_users', 'synthetic_items', 'synthetic_seed'),
    reads_files=False,
    has_optimum=True,
  ),
  'table': Source('data_prep.sources.table', _COLUMNS, reads_files=True),
}


def get(name: str) -> Source:
  """The source of that name.

  Raises:
    ValueError: there is none.
  """
  config.check_choice(name, tuple(SOURCES), 'data.source')
  return SOURCES[name]
