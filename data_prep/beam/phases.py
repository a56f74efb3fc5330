"""The pipelines of a preparation, as transforms. A phase that is done is not run again."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
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
_WAITING = 1 << 16  # texts that are united together


class Union(beam.CombineFn):
  """The distinct texts of arrays of texts, sorted.

  Arrays wait until they hold as many texts as the union so far, so that the time is linear in all texts.
  """

  def create_accumulator(self) -> list[pa.Array]:
    return []

  def add_input(self, found: list[pa.Array], texts: pa.Array) -> list[pa.Array]:
    return _united([*found, texts])

  def merge_accumulators(self, accumulators: Iterable[list[pa.Array]]) -> list[pa.Array]:
    return _united([texts for accumulator in accumulators for texts in accumulator])

  def extract_output(self, found: list[pa.Array]) -> pa.Array:
    return blocks.union(found)


def _united(found: list[pa.Array]) -> list[pa.Array]:
  """The union of all texts, if the first array is smaller than the others; else the arrays."""
  waiting = sum(map(len, found[1:]))
  return [blocks.union(found)] if waiting > max(len(found[0]) if found else 0, _WAITING) else found


def _name(name: str) -> Callable[[Any], str]:
  """The part of a phase that has one."""
  return lambda element: name


@dataclasses.dataclass(frozen=True)
class Phases:
  """The phases of a preparation, run by Beam. A phase whose parts are there is not run again.

  Attributes:
    job: the job.
    options: Beam's options.
  """

  job: Job
  options: PipelineOptions

  def read(self, count: int) -> None:
    """Reads the shards, and unites their items."""

    def build(pipeline: beam.Pipeline) -> None:
      done = numbers(pipeline, 'shards', range(count)) | 'read' >> self._do(
        tasks.read_shard, reading.shard_name
      )
      _ = (
        done
        | 'items of shards' >> self._do(tasks.shard_items)
        | 'unite items' >> beam.CombineGlobally(Union())
        | 'write items' >> self._do(tasks.write_items, _name(tasks.ITEMS))
      )

    self._run('read', build, [*map(reading.shard_name, range(count)), tasks.ITEMS])

  def group(self, found: Sequence[tuple[str, int]], count: int) -> None:
    """Writes the rows of all blocks by range of users, and cleans the ranges."""
    self._each('scatter', tasks.scatter_block, tasks.pieces_name, found)
    places = list(enumerate(self.job.work.places(map(tasks.pieces_name, found), 2 * count)))

    def build(pipeline: beam.Pipeline) -> None:
      _ = (
        numbers(pipeline, 'ranges', places[:count])
        | 'clean' >> self._do(tasks.clean_range, tasks.range_name)
        | 'count items' >> self._do(tasks.range_counts)
        | 'sum' >> beam.CombineGlobally(Sum())
        | 'write counts' >> self._do(tasks.write_counts, _name(tasks.COUNTS))
      )
      _ = (
        numbers(pipeline, 'ids', places[count:])
        | 'find alike' >> self._do(tasks.alike_range)
        | 'all alike' >> beam.combiners.ToList()
        | 'write alike' >> self._do(tasks.write_alike, _name(tasks.ALIKE))
      )

    self._run('group', build, [*map(tasks.range_name, range(count)), tasks.COUNTS, tasks.ALIKE])

  def k_core(self, count: int, left_I: np.ndarray, k: int) -> np.ndarray:
    """Returns the items of the k-core: bool `[I]`. Runs pipelines of some rounds each until no item is dropped."""
    batch, is_done = 0, False
    while not is_done:
      part = f'core{k}-{batch:05d}'
      self._run(f'{k}-core', self._rounds(count, left_I, k, part), [part])
      left_I, is_done = self.job.work.read(part)['left'], self.job.work.need(part)['is_done']
      batch += 1
    return left_I

  def _rounds(
    self, count: int, left_I: np.ndarray, k: int, part: str
  ) -> Callable[[beam.Pipeline], None]:
    def build(pipeline: beam.Pipeline) -> None:
      every = numbers(pipeline, 'ranges', range(count))
      one = pipeline | 'one' >> beam.Create([0])
      state = pipeline | 'start' >> beam.Create([(np.packbits(left_I).tobytes(), False)])
      for n in range(_ROUNDS):
        counts = (
          every
          | f'round {n}' >> self._do(tasks.count_range, None, AsSingleton(state), k)
          | f'sum {n}' >> beam.CombineGlobally(Sum())
        )
        sides = AsSingleton(state), AsSingleton(counts), k
        state = one | f'next {n}' >> self._do(tasks.next_state, None, *sides)
      _ = (
        state
        | 'name' >> beam.Map(lambda state: (part, state))
        | 'write' >> self._do(tasks.write_core, _name(part))
      )

    return build

  def finish(self, count: int) -> None:
    """Writes the kept rows of every range, with their split."""
    self._each('finish', tasks.finish_range, tasks.clean_name, range(count))

  def find_borders(self, count: int, brackets: tuple[tuple[int, int], ...]) -> None:
    """Writes the targets of every range that may be the first of a part."""
    elements = [(number, brackets) for number in range(count)]
    self._each('find borders', tasks.range_keys, tasks.keys_name, elements)

  def split(self, count: int) -> None:
    """Writes the split of every range by global time."""
    self._each('split', tasks.split_range, tasks.split_name, range(count))

  def _each(
    self,
    name: str,
    function: Callable[..., Any],
    part: Callable[[Any], str],
    elements: Sequence[Any],
  ) -> None:
    def build(pipeline: beam.Pipeline) -> None:
      _ = numbers(pipeline, 'ranges', elements) | name >> self._do(function, part)

    self._run(name, build, [part(element) for element in elements])

  def _do(
    self, function: Callable[..., Any], part: Callable[[Any], str] | None = None, *sides: Any
  ) -> beam.ParDo:
    return beam.ParDo(Task(self.job, function, part), *sides)

  def _run(self, name: str, build: Callable[[beam.Pipeline], None], names: Sequence[str]) -> None:
    pipelines.run_missing(self.job, self.options, name, build, names)
