"""Every task's example in both formats equals the golden one, and so do the samples of the papers; see tests/goldens."""

import dataclasses
import json

import pytest

from recjax import train
from recjax.data.tasks import TASKS
from tests.goldens import make_papers, make_tasks


@pytest.mark.parametrize('family', make_tasks.FAMILIES)
def test_examples_equal_the_goldens(rated, family):
  config, dataset = rated
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, family=family))
  golden = json.loads(make_tasks.FILE.read_text())[family]
  assert set(golden) == set(TASKS)
  assert make_tasks.examples(train.make_mixture(config, dataset)) == golden


def test_the_samples_of_the_papers_equal_the_goldens(rated):
  golden = json.loads(make_papers.FILE.read_text())
  assert make_papers.samples(rated[1]) == golden
  assert all(sample['published'] and sample['ours'] and sample['learnt'] for sample in golden)
