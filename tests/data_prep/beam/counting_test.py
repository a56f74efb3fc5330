"""Neighbours by ranges of users and blocks of items equal those of the whole log."""

import subprocess
import sys

import numpy as np
import pytest

from data_prep import files
from data_prep.beam import counting, job
from data_prep.beam.parts import Work
from data_prep.relations import collaborative
from recjax.data import neighbours
from recjax.data.sequences import Sequences, offsets_of
from recjax.schema.items import Relations
from tests.folders import ROOT

ITEMS = 40


def train(seed=0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(0, 30, 60)
  values = (ITEMS * rng.random(int(lengths.sum())) ** 2).astype(np.int32)
  return Sequences(values, offsets_of(lengths))


@pytest.mark.parametrize('settings', [{}, {'distance_weight': 'inverse', 'min_count': 1.5}])
@pytest.mark.parametrize('size', [50, 10_000])
def test_the_lists_equal_those_of_the_local_engine(tmp_path, settings, size):
  log, relations = train(), Relations(top_k=6, window=3, **settings)
  files.save(tmp_path / 'items.npy', log.values)
  files.save(tmp_path / 'offsets.npy', log.offsets)
  occurrences_I = np.bincount(log.values, minlength=ITEMS)
  task = counting.Counting(
    work=Work(str(tmp_path), 'x'),
    code=job.code_digest(),
    items=str(tmp_path / 'items.npy'),
    offsets=str(tmp_path / 'offsets.npy'),
    num_items=ITEMS,
    relations=relations,
    borders=counting.item_borders(occurrences_I, size),
  )
  task.start()
  task.check()
  task.work.write('ranks', {'ranks': collaborative.popularity_ranks(occurrences_I)}, {})
  names = []
  for users in reversed(counting.user_ranges(log.offsets, size)):
    names.append(counting.sums_name(users))
    task.work.write(names[-1], *counting.count_users(task, users))
  blocks = range(len(task.borders) + 1)
  places = task.work.places(names, len(blocks))
  for number in blocks:
    part = counting.find_lists(task, (number, places[number]))
    task.work.write(counting.lists_name(number), *part)
  found = neighbours.concatenate([counting.read_lists(task, number) for number in blocks])
  expected = collaborative.collaborative(log, ITEMS, relations)
  np.testing.assert_array_equal(found.items.values, expected.items.values)
  np.testing.assert_array_equal(found.items.offsets, expected.items.offsets)
  np.testing.assert_array_equal(found.strengths, expected.strengths)
  assert found.strengths.dtype == expected.strengths.dtype
  assert len(blocks) > 1 or size == 10_000


def test_ranges_cover_all_users_and_blocks_all_items():
  offsets = offsets_of([0, 5, 0, 20, 3, 3, 0, 1])
  ranges = counting.user_ranges(offsets, 6)
  assert [n for first, last in ranges for n in range(first, last)] == list(range(8))
  assert len(ranges) > 2
  borders = counting.item_borders(np.array([9, 0, 0, 1, 1, 7]), 4)
  assert list(borders) == sorted({*borders}) and min(borders) > 0 and max(borders) < 6


def test_workers_import_no_models():
  # Every worker process of every pipeline starts with these imports.
  program = 'import sys, data_prep.beam.counting, data_prep.beam.tasks; print(*sys.modules)'
  loaded = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  assert 'data_prep.beam.tasks' in loaded
  heavy = {'jax', 'flax', 'sklearn', 'tensorflow_datasets', 'recjax.models', 'recjax.config'}
  assert not heavy & {*loaded}
