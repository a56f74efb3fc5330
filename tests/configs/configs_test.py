"""Every variant of every config is valid, and real data can be prepared with it."""

import importlib
import json
import re

from etils import epath
import pytest

from data_prep import prepare, sources
from recjax import config as config_lib
from recjax import train
from recjax.data.dataset import Dataset
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import ignored
from tests.folders import ROOT
from tests.goldens import make_configs
from tests.shared_data import SHARED, needs_shared

FILES = sorted(
  path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'common')
)


def variants(name):
  """Returns the variants that the config file's error message lists."""
  with pytest.raises(ValueError, match='the variant of this config') as error:
    importlib.import_module(f'configs.{name}').get_config('no such variant')
  return re.findall(r"'([^']*)'", str(error.value).split(';')[0])


@pytest.mark.parametrize('name', FILES)
def test_every_variant_is_a_valid_config(name):
  module = importlib.import_module(f'configs.{name}')
  assert 'Command:' in module.__doc__
  for variant in variants(name):
    config = make_configs.config(name, variant)
    sources.get(config.data.source)
    ignored.check_components([], config, is_saved=False)
    if config.batch_size is not None:  # else it is chosen from the data
      assert config.batch_size % config.packing.rows == 0


def test_the_example_trains_something_sensible(tmp_path, caplog):
  config_dict = importlib.import_module('configs.example').get_config('tiny')
  config_dict.data.prepared_dir = str(tmp_path)
  config = config_lib.from_config_dict(config_dict)
  dataset = Dataset.load(prepare.prepare(config))
  caplog.clear()
  mesh = mesh_lib.make_mesh(config.mesh)
  [stream] = train.checked_streams(config, epath.Path(tmp_path), dataset, mesh)
  assert {part.name for part in stream.mixture.parts} == {'next_item', 'title_to_sid'}
  assert not caplog.records


def test_industrial_has_the_protocol_of_its_papers():
  from configs import industrial

  # MiniOneRec and TS-Rec: ten items of history, 50 beams, shared SIDs, seen items stay, cut-offs with 3.
  for variant in ('', 'cpu', 'tasks', 'qwen2_5_0_5b'):
    config = industrial.get_config(variant)
    assert (config.data.max_history, config.mixture.next_item.max_items) == (10, 11)
    assert (config.eval.exclude_seen, config.sids.collisions) == (False, 'keep')
    assert (config.eval.ks, config.eval.beams) == ((1, 3, 5, 10, 20, 50), 50)


def test_default_names_of_data_sets_are_unique():
  # They share the data of other configs.
  shared = ('sasrec', 'iirg', 'rec_knowledge', 'ts_rec')
  others = [name for name in FILES if name not in shared]
  names = [importlib.import_module(f'configs.{name}').get_config().data.name for name in others]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize(
  ('variant', 'category', 'batch_size'),
  [
    ('', 'ml-100k', 256),
    ('cpu', 'ml-100k', 64),
    ('1m', 'ml-1m', 256),
    ('1m-cpu', 'ml-1m', 64),
    ('25m-gemma3_270m', 'ml-25m', 128),
    ('flan_t5_base', 'ml-100k', 128),
  ],
)
def test_movielens_variants_set_data_set_and_size(variant, category, batch_size):
  from configs import movielens

  config = movielens.get_config(variant)
  assert (config.data.category, config.data.name) == (category, category)
  assert config.batch_size == batch_size


@pytest.mark.parametrize(
  ('name', 'folder', 'counts'),
  [
    pytest.param(
      'movielens', 'movielens/ml-100k', (943, 1682), marks=needs_shared('movielens/ml-100k')
    ),
    pytest.param(
      # Counts users of all three parts; few of them are in every part.
      'industrial',
      'amazon2018/industrial',
      (3285, 3686),
      marks=needs_shared('amazon2018/industrial'),
    ),
    pytest.param(
      'scientific',
      'amazon2018/scientific',
      (8317, 4344),
      marks=needs_shared('amazon2018/scientific'),
    ),
  ],
)
@needs_shared('tokenizers')
def test_real_data_are_prepared_with_the_published_counts(tmp_path, name, folder, counts):
  config = importlib.import_module(f'configs.{name}').get_config('cpu')
  config.data.update(
    raw_dir=str(SHARED / folder),
    prepared_dir=str(tmp_path / 'prepared'),
    sentencepiece=str(SHARED / 'tokenizers' / 't5_spiece.model'),  # faster than training one
  )
  config.sids.update(source='cooccurrence', cooccurrence_width=16)
  config = config_lib.from_config_dict(config)
  data = Dataset.load(prepare.prepare(config))
  assert (data.num_users, data.num_items) == counts
  assert prepare.find(config)


def test_field_values_equal_the_golden_digests():
  golden = json.loads((ROOT / 'tests/goldens/configs.json').read_text())
  found = {
    f'{name}:{variant}': make_configs.digest(make_configs.values(name, variant), golden['fields'])
    for name in FILES
    for variant in variants(name)
  }
  assert found == golden['digests']
