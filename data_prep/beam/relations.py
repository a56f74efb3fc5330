"""Collaborative neighbours by a pipeline of Beam: co-occurrences of ranges of users, and the strongest of every item."""

import os

import apache_beam as beam
from etils import epath
import numpy as np

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.beam import counting, options, parts, pipelines
from data_prep.beam.counting import Counting
from data_prep.beam.job import code_digest, identity
from data_prep.beam.parts import Work
from data_prep.beam.pipelines import Task, numbers
from data_prep.relations.collaborative import popularity_ranks
from recjax.data import neighbours
from recjax.data.neighbours import Neighbours
from recjax.data.prepared import Prepared
from recjax.schema.items import Relations

_USER_ROWS, _ITEM_ROWS = (
  1 << 20,
  1 << 20,
)  # interactions in a range of users, and of a block of items


def collaborative(
  stage: stage_lib.Stage,
  prepared: Prepared,
  num_items: int,
  relations: Relations,
  beam_options: str,
  out: epath.Path,
) -> Neighbours:
  """Returns what `data_prep.relations.collaborative` does, for one hop.

  Args:
    stage: the stage; its inputs and params identify the parts.
    prepared: the prepared log.
    num_items: I.
    relations: the settings.
    beam_options: `data.beam_options`.
    out: the folder that the stage writes.

  Raises:
    ValueError: a worker has other code or settings.
    RuntimeError: the pipeline failed.
  """
  parsed = options.parse(beam_options)
  digest = identity(stage.params, stage.inputs)
  folder = parts.folder(out.parent, stage.name, digest)
  items, offsets = (
    parts.absolute(prepared / name) for name in (files.TRAIN_ITEMS, files.TRAIN_OFFSETS)
  )
  occurrences_I = np.zeros(num_items, np.int64)
  values = counting.array(items)
  for start in range(0, len(values), _USER_ROWS):
    occurrences_I += np.bincount(values[start : start + _USER_ROWS], minlength=num_items)
  job = Counting(
    work=Work(parts.absolute(folder), digest),
    code=code_digest(),
    items=items,
    offsets=offsets,
    num_items=num_items,
    relations=relations,
    borders=counting.item_borders(occurrences_I, _ITEM_ROWS),
  )
  job.start()
  job.work.write(counting.RANKS, {'ranks': popularity_ranks(occurrences_I)}, {})
  blocks = range(len(job.borders) + 1)
  users = counting.user_ranges(counting.array(offsets), _USER_ROWS)

  def each(name: str, function, part, elements) -> None:
    def build(pipeline: beam.Pipeline) -> None:
      task = beam.ParDo(Task(job, function, part))
      _ = numbers(pipeline, 'elements', elements) | name >> task

    names = [part(element) for element in elements]
    pipelines.run_missing(job, parsed, name, build, names)

  each('co-occurrences', counting.count_users, counting.sums_name, users)
  places = job.work.places(map(counting.sums_name, users), len(blocks))
  each('neighbours', counting.find_lists, counting.lists_name, list(enumerate(places)))
  found = neighbours.concatenate([counting.read_lists(job, number) for number in blocks])
  counting.array.cache_clear()
  epath.Path(os.fspath(folder)).rmtree()
  return found
