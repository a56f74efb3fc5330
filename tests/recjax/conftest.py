import pytest

from recjax.data.corpus import Corpus
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
