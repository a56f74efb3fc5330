"""Sources as config sections: options, identity, and a source that other code registers."""

import dataclasses
import json
import shutil

from etils import epath
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from configs import common
from data_prep import prepare, sources
from data_prep.log import raw_log
from data_prep.log.arrays import Scratch
from data_prep.sources import base
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.schema.checks import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(base.Source):
  """A source of users who visit the items in a cycle; its file holds the number of users."""

  toy_items: int = setting(7, 'Items of the circle.', at_least=3)

  def input_files(self, raw_dir):
    return {'users.txt': raw_dir / 'users.txt'}

  def load(self, raw_dir):
    users = int((raw_dir / 'users.txt').read_text())
    walks_UT = (np.arange(users)[:, None] + np.arange(5)) % self.toy_items
    return raw_log.RawLog(
      np.repeat(np.array([f'u{n}' for n in range(users)]), 5),
      np.array([f'i{n}' for n in walks_UT.ravel()]),
      np.tile(np.arange(5), users),
      {f'i{n}': {'title': f'item number {n} of a circle', 'price': '—'} for n in range(users)},
    )


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setitem(sources.SOURCES, 'toy', Toy)


def tiny(source, tmp_path) -> ml_collections.ConfigDict:
  config = common.vary(common.flat(common.start(source, 'x'), 'cpu'), 'cpu')
  config.data.update(
    k_core=0, text_pieces=300, raw_dir=str(tmp_path), prepared_dir=str(tmp_path / 'prepared')
  )
  config.sids.update(
    encoder='tfidf', codes=(4, 4), tfidf_width=4, cooccurrence_width=3, source='cooccurrence'
  )
  return config


def test_a_source_registered_by_other_code_can_be_prepared(tmp_path, toy):
  (tmp_path / 'users.txt').write_text('20')
  fields = tiny('toy', tmp_path)
  fields.lock()
  fields.data.toy_items = 10
  config = config_lib.from_config_dict(fields)
  data = Dataset.load(prepare.prepare(config))
  assert (data.num_users, data.num_items) == (20, 10)
  statistics = json.loads((tmp_path / 'prepared/interactions/statistics.json').read_text())
  assert statistics['tidied_fields'] == {'price_dropped': 10}
  assert prepare.find(config_lib.from_config_dict(fields))
  fields.data.toy_items = 11
  assert not prepare.find(config_lib.from_config_dict(fields))


def test_a_source_of_tables_may_read_its_log_as_a_whole():
  class Whole(base.Tabular):
    def load(self, raw_dir):
      del raw_dir
      return raw_log.RawLog(['u', 'v', 'u'], ['a', 'b', 'a'], np.arange(3), {})

  log = Whole(source='whole', name='x').load_into(Scratch(), epath.Path('.'))
  assert log.users.tolist() == ['u', 'v', 'u'] and log.items.names == ['a', 'b']


def test_options_are_checked_and_unknown_options_rejected(toy):
  fields = config_lib.defaults(source='toy', name='x').to_dict()
  assert fields['data']['toy_items'] == 7
  fields['data']['toy_items'] = 2
  with pytest.raises(
    ValueError, match=r'data\.toy_items must be at least 3; got 2.*--config\.data'
  ):
    config_lib.from_dict(fields)
  del fields['data']['toy_items']
  fields['data']['toy_itmes'] = 9
  with pytest.raises(
    ValueError, match=r'unknown config field data\.toy_itmes; did you mean data\.toy_items'
  ):
    config_lib.from_dict(fields)


def test_options_of_other_sources_are_ignored(toy):
  """Config files of earlier versions hold the options of all sources."""
  fields = config_lib.defaults(source='toy', name='x').to_dict()
  fields['data'] |= {'user_column': 5, 'synthetic_users': None}
  config = config_lib.from_dict(fields)
  assert config.data == Toy(source='toy', name='x')
  assert config.to_dict()['data'].keys() == {f.name for f in dataclasses.fields(Toy)}


@pytest.mark.parametrize('name', sorted(sources.SOURCES))
def test_an_option_at_its_default_does_not_change_the_identity(name):
  """So folders that were prepared before the option existed are still found."""
  old = {
    'amazon2014': ['category', 'catalogue'],
    'synthetic': ['synthetic_users', 'synthetic_items', 'synthetic_seed'],
    'table': ['user_column', 'item_column', 'time_column', 'rating_column', 'event_column'],
  }
  old |= dict.fromkeys(('amazon2018', 'amazon2023'), old['amazon2014'])
  data = sources.get(name)(source=name, name='x')
  assert list(data.params()) == ['source', *old.get(name, ['category'])]
  assert all(field.metadata['meaning'] for field in dataclasses.fields(data))
  if isinstance(data, base.Tabular):
    changed = dataclasses.replace(data, title_column='t')
    assert changed.params() == data.params() | {'title_column': 't'}


def test_a_prepared_table_in_parts_needs_no_raw_files(tmp_path):
  raw = tmp_path / 'raw [1] *'
  raw.mkdir()
  for part in range(2):
    rows = {'user': [f'u{part}{n // 5}' for n in range(50)], 'item': [n % 5 for n in range(50)]}
    table = pa.table(rows | {'time': range(50)})
    pyarrow.parquet.write_table(table, raw / f'interactions-{part}-of-2.parquet')
  pyarrow.parquet.write_table(pa.table({'item': range(5)}), raw / 'items.parquet')
  fields = tiny('table', tmp_path)
  fields.data.raw_dir = str(raw)
  config = config_lib.from_config_dict(fields)
  prepare.prepare(config)
  shutil.rmtree(raw)
  assert prepare.find(config)
  raw.mkdir()
  pyarrow.parquet.write_table(pa.table({'item': range(6)}), raw / 'items.parquet')
  assert not prepare.find(config)
