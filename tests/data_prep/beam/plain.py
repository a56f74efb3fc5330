"""Runs the tasks of a preparation one after another, without Beam: small ranges and shuffled pieces."""

import dataclasses
import random

import numpy as np

from data_prep.beam import blocks, reading, tasks
from data_prep.beam.job import Job


@dataclasses.dataclass(frozen=True)
class PlainPhases:
  """See `data_prep.beam.log.Phases`."""

  job: Job
  seed: int = 0

  def _write(self, name, part):
    self.job.work.write(name, *part)

  def _shuffled(self, elements):
    elements = list(elements)
    random.Random(self.seed).shuffle(elements)
    return elements

  def _each(self, elements, function, name):
    errors = {}
    for element in self._shuffled(elements):
      try:
        self._write(name(element), function(self.job, element))
      except ValueError as error:
        errors[name(element)] = error
    if errors:
      raise errors[min(errors)]

  def read(self, count):
    self._each(range(count), tasks.read_shard, reading.shard_name)
    items = [texts for n in range(count) for texts in tasks.shard_items(self.job, n)]
    self._write(tasks.ITEMS, tasks.write_items(self.job, blocks.union(items)))

  def group(self, found, count):
    self._each(found, tasks.scatter_block, tasks.pieces_name)
    names = map(tasks.pieces_name, self._shuffled(found))
    places = list(enumerate(self.job.work.places(names, 2 * count)))
    self._each(places[:count], tasks.clean_range, tasks.range_name)
    counts = sum(part for n in range(count) for part in tasks.range_counts(self.job, n))
    self._write(tasks.COUNTS, tasks.write_counts(self.job, counts))
    every = [found for pair in places[count:] for found in tasks.alike_range(self.job, pair)]
    self._write(tasks.ALIKE, tasks.write_alike(self.job, every))

  def k_core(self, count, left_I, k):
    state, is_done = (np.packbits(left_I).tobytes(), False), False
    while not is_done:
      counts = [part for n in range(count) for part in tasks.count_range(self.job, n, state, k)]
      (state,) = tasks.next_state(self.job, 0, state, sum(counts) if counts else None, k)
      left_I, is_done = tasks.unpacked(self.job, state)
    return left_I

  def finish(self, count):
    self._each(range(count), tasks.finish_range, tasks.clean_name)

  def find_borders(self, count, brackets):
    self._each([(n, brackets) for n in range(count)], tasks.range_keys, tasks.keys_name)

  def split(self, count):
    self._each(range(count), tasks.split_range, tasks.split_name)
