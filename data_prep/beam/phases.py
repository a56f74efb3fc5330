"""The pipelines of a preparation, as transforms. A phase that is done is not run again."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsSingleton
import numpy as np
import pyarrow as pa

from data_prep.beam import blocks, pipelines, reading, tasks
from data_prep.beam.job import Job
from data_prep.beam.pipelines import Sum, Task, numbers

_ROUNDS = 6  # of the k-core in one pipeline


class Union(beam.CombineFn):
  """The distinct texts of arrays of texts, sorted."""

  def create_accumulator(self) -> list[pa.Array]:
    return []

  def add_input(self, found: list[pa.Array], texts: pa.Array) -> list[pa.Array]:
    return [blocks.union([*found, texts])]

  def merge_accumulators(self, accumulators: Iterable[list[pa.Array]]) -> list[pa.Array]:
    found = [texts for accumulator in accumulators for texts in accumulator]
    return [blocks.union(found)] if found else []

  def extract_output(self, found: list[pa.Array]) -> pa.Array | None:
    return found[0] if found else None


def _is_there(value: Any) -> bool:
  return value is not None


def _name(name: str) -> Callable[[Any], str]:
  """The part of a phase that has one."""
  return lambda element: name


def read(job: Job, options: PipelineOptions, count: int) -> None:
  """Reads the shards, and unites their items."""

  def build(pipeline: beam.Pipeline) -> None:
    done = numbers(pipeline, 'shards', range(count)) | 'read' >> beam.ParDo(
      Task(job, tasks.read_shard, reading.shard_name)
    )
    _ = (
      done
      | 'items of shards' >> beam.ParDo(Task(job, tasks.shard_items))
      | 'unite items' >> beam.CombineGlobally(Union())
      | 'with items' >> beam.Filter(_is_there)
      | 'write items' >> beam.ParDo(Task(job, tasks.write_items, _name(tasks.ITEMS)))
    )

  _run(job, options, 'read', build, [*map(reading.shard_name, range(count)), tasks.ITEMS])


def group(job: Job, options: PipelineOptions, found: Sequence[tuple[str, int]], count: int) -> None:
  """Groups the rows of all blocks by range of users, and cleans the ranges."""

  def build(pipeline: beam.Pipeline) -> None:
    every = numbers(pipeline, 'blocks', found)
    pieces = every | 'scatter' >> beam.ParDo(Task(job, tasks.scatter_block))
    empty = numbers(pipeline, 'ranges', [(number, b'') for number in range(count)])
    _ = (
      (pieces, empty)
      | 'all ranges' >> beam.Flatten()
      | 'group' >> beam.GroupByKey()
      | 'clean' >> beam.ParDo(Task(job, tasks.clean_range, tasks.range_name))
      | 'count items' >> beam.ParDo(Task(job, tasks.range_counts))
      | 'sum' >> beam.CombineGlobally(Sum())
      | 'with counts' >> beam.Filter(_is_there)
      | 'write counts' >> beam.ParDo(Task(job, tasks.write_counts, _name(tasks.COUNTS)))
    )
    _ = (
      every
      | 'scatter alike' >> beam.ParDo(Task(job, tasks.scatter_alike))
      | 'group alike' >> beam.GroupByKey()
      | 'find alike' >> beam.ParDo(Task(job, tasks.alike_range))
      | 'all alike' >> beam.combiners.ToList()
      | 'write alike' >> beam.ParDo(Task(job, tasks.write_alike, _name(tasks.ALIKE)))
    )

  names = [*map(tasks.range_name, range(count)), tasks.COUNTS, tasks.ALIKE]
  _run(job, options, 'group', build, names)


def k_core(
  job: Job, options: PipelineOptions, count: int, left_I: np.ndarray, k: int, name: str = 'core'
) -> np.ndarray:
  """Returns the items of the k-core: bool `[I]`. Runs pipelines of some rounds each until no item is dropped."""
  batch, is_done = 0, False
  while not is_done:
    part = f'{name}-{batch:05d}'
    _run(job, options, f'{k}-core', _rounds(job, count, left_I, k, part), [part])
    left_I, is_done = job.work.read(part)['left'], job.work.need(part)['is_done']
    batch += 1
  return left_I


def _rounds(
  job: Job, count: int, left_I: np.ndarray, k: int, part: str
) -> Callable[[beam.Pipeline], None]:
  def build(pipeline: beam.Pipeline) -> None:
    every = numbers(pipeline, 'ranges', range(count))
    one = pipeline | 'one' >> beam.Create([0])
    state = pipeline | 'start' >> beam.Create([(np.packbits(left_I).tobytes(), False)])
    for n in range(_ROUNDS):
      counts = (
        every
        | f'round {n}' >> beam.ParDo(Task(job, tasks.count_range), AsSingleton(state), k)
        | f'sum {n}' >> beam.CombineGlobally(Sum())
      )
      state = one | f'next {n}' >> beam.ParDo(
        Task(job, tasks.next_state), AsSingleton(state), AsSingleton(counts), k
      )
    _ = (
      state
      | 'name' >> beam.Map(lambda state: (part, state))
      | 'write' >> beam.ParDo(Task(job, tasks.write_core, _name(part)))
    )

  return build


def finish(job: Job, options: PipelineOptions, count: int) -> None:
  """Writes the kept rows of every range, with their split."""
  _each(job, options, 'finish', tasks.finish_range, tasks.clean_name, range(count))


def find_borders(
  job: Job, options: PipelineOptions, count: int, brackets: tuple[tuple[int, int], ...]
) -> None:
  """Writes the targets of every range that may be the first of a part."""
  elements = [(number, brackets) for number in range(count)]
  _each(job, options, 'find borders', tasks.range_keys, tasks.keys_name, elements)


def split(job: Job, options: PipelineOptions, count: int) -> None:
  """Writes the split of every range by global time."""
  _each(job, options, 'split', tasks.split_range, tasks.split_name, range(count))


def _each(
  job: Job,
  options: PipelineOptions,
  name: str,
  function: Callable[..., Any],
  part: Callable[[Any], str],
  elements: Sequence[Any],
) -> None:
  def build(pipeline: beam.Pipeline) -> None:
    _ = numbers(pipeline, 'ranges', elements) | name >> beam.ParDo(Task(job, function, part))

  names = [part(element) for element in elements]
  _run(job, options, name, build, names)


def _run(
  job: Job,
  options: PipelineOptions,
  name: str,
  build: Callable[[beam.Pipeline], None],
  names: Sequence[str],
) -> None:
  """Runs a pipeline unless all its parts are there, and checks that they are."""
  if not job.work.are_complete(names):
    pipelines.run(job, options, name, build)
    for part in names:
      job.work.need(part)
