import pytest

from tests.recjax.metrics.evaluators.contexts import context_of


@pytest.fixture(scope='session')
def context(rated):
  """The context of an untrained model of the rated world; evaluators share its programs."""
  return context_of(rated)
