"""Every task's example in both formats equals the golden one, text and ids; see tests/goldens/make_tasks.py."""

import dataclasses
import json

import pytest

from recjax import train
from recjax.data.tasks import TASKS
from tests.goldens import make_tasks


@pytest.mark.parametrize('family', make_tasks.FAMILIES)
def test_examples_equal_the_goldens(rated, family):
  config, dataset = rated
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, family=family))
  golden = json.loads(make_tasks.FILE.read_text())[family]
  assert set(golden) == set(TASKS)
  assert make_tasks.examples(train.make_mixture(config, dataset)) == golden
