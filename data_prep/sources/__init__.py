"""Sources, which read raw files of one kind into a `RawLog`. Importing this package registers all of them.

To add a source, write a module with a subclass of `data_prep.sources.base.Source` (its fields are its options,
its methods read the files) and add it to `SOURCES`. Code outside this package may do the same.
"""

from data_prep.sources.amazon import Amazon
from data_prep.sources.base import Source
from data_prep.sources.minionerec import MiniOneRec
from data_prep.sources.movielens import MovieLens
from data_prep.sources.recbole import RecBole
from data_prep.sources.sequences_json import SequencesJson
from data_prep.sources.synthetic import Synthetic
from data_prep.sources.table import Table
from recjax.schema.checks import check_choice
from recjax.schema.data import SOURCES

SOURCES |= {
  'amazon2014': Amazon,
  'amazon2018': Amazon,
  'amazon2023': Amazon,
  'minionerec': MiniOneRec,
  'movielens': MovieLens,
  'recbole': RecBole,
  'sequences_json': SequencesJson,
  'synthetic': Synthetic,
  'table': Table,
}


def get(name: str) -> type[Source]:
  """Returns the data section class of a source: `get('table').load(data, raw_dir)` is `data.load(raw_dir)`.

  Raises:
    ValueError: there is no such source.
  """
  check_choice(name, tuple(SOURCES), 'data.source')
  return SOURCES[name]
