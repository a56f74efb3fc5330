import json
import shutil

import pytest

from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from tests.recjax.data import rated_world


@pytest.fixture(scope='session')
def rated(tmp_path_factory):
  """The config (every task) and the prepared data of the small rated world."""
  return rated_world.prepared(tmp_path_factory.mktemp('rated'))


@pytest.fixture(scope='session')
def decoder_corpus(rated):
  return Corpus(rated[1], is_encoder_decoder=False)


@pytest.fixture(scope='session')
def encoder_decoder_corpus(rated):
  return Corpus(rated[1], is_encoder_decoder=True)


@pytest.fixture(scope='session')
def viewed(rated, tmp_path_factory):
  """The rated world, whose views are context."""
  folder = tmp_path_factory.mktemp('viewed') / 'prepared'
  shutil.copytree(rated[0].prepared_folder, folder)
  (folder / 'interactions' / 'context_events.json').write_text('["view"]')
  manifest = folder / 'interactions' / 'manifest.json'
  fields = json.loads(manifest.read_text())
  fields['files']['context_events.json'] = {'bytes': 8, 'sha256': 'x'}
  manifest.write_text(json.dumps(fields))
  return Dataset.load(folder)
