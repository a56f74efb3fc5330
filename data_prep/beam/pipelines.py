"""The pipelines of Beam. Every one reads parts and writes parts, so that a killed preparation goes on after the last one.

Elements are numbers of shards and ranges, blocks of rows and counts of all items: hundreds of thousands of rows are one
element, whose work numpy does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import json
import logging
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsSingleton
from etils import epath
import numpy as np

from data_prep.beam import parts
from data_prep.beam.job import Job
from recjax.runtime import messages

_log = logging.getLogger(__name__)
_KINDS = {kind.__name__: kind for kind in (ValueError, FileNotFoundError, PermissionError, OSError)}


def run(
  job: Job, options: PipelineOptions, name: str, build: Callable[[beam.Pipeline], None]
) -> None:
  """Runs a pipeline to its end.

  Args:
    job: the job of its workers.
    options: Beam's options.
    name: for messages.
    build: adds the transforms.

  Raises:
    ValueError, OSError: a worker found the input invalid, with the message of the first shard or range.
    RuntimeError: the pipeline failed otherwise.
  """
  for path in job.work.failures():
    path.unlink()
  pipeline = beam.Pipeline(options=options)
  build(pipeline)
  failure = None
  with _quiet():
    try:
      state = pipeline.run().wait_until_finish()
      if state not in (None, 'DONE'):
        failure = f'it ended as {state}'
    except Exception as error:  # noqa: BLE001  runners raise their own types
      failure = (str(error).strip() or repr(error)).splitlines()[-1]
      _log.debug('the pipeline %r failed', name, exc_info=True)
  _raise_first(job)
  if failure is not None:
    raise RuntimeError(
      f'the Beam pipeline {name!r} failed: {failure}. The same command goes on after the parts that are done'
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops the tracebacks that Beam logs for an error that is raised too."""
  logger = logging.getLogger('apache_beam')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


def _raise_first(job: Job) -> None:
  for path in job.work.failures():
    record = json.loads(epath.Path(path).read_text())
    raise _KINDS.get(record['kind'], ValueError)(record['message'])


class Task(beam.DoFn):
  """Calls a function of a job with every element. Its message to the user is kept, and ends the launcher.

  The function yields elements. If `part` is given, it returns the arrays and the facts of the part of this name, which
  is written unless it is there, and the element follows.
  """

  def __init__(
    self, job: Job, function: Callable[..., Any], part: Callable[[Any], str] | None = None
  ):
    self._job, self._function, self._part = job, function, part

  def process(self, element: Any, *sides: Any) -> Iterator[Any]:
    name = self._part(element) if self._part else f'{self._function.__name__}-{_label(element)}'
    try:
      self._job.check()
      if self._part is None:
        yield from self._function(self._job, element, *sides)
        return
      if self._job.work.facts(name) is None:
        arrays, facts = self._function(self._job, element, *sides)
        self._job.work.write(name, arrays, facts)
      yield _label(element)
    except Exception as error:
      if not isinstance(error, OSError) and not messages.is_message(error):
        raise
      self._job.work.fail(name, error)


def _label(element: Any) -> Any:
  """The number or name of an element; grouped elements are pairs with their values."""
  return element[0] if isinstance(element, tuple) else element


class Sum(beam.CombineFn):
  """Adds arrays of one shape; None without any."""

  def create_accumulator(self) -> None:
    return None

  def add_input(self, total: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    return values if total is None else total + values

  def merge_accumulators(self, totals: Iterable[np.ndarray | None]) -> np.ndarray | None:
    found = [total for total in totals if total is not None]
    return sum(found[1:], found[0]) if found else None

  def extract_output(self, total: np.ndarray | None) -> np.ndarray | None:
    return total


def numbers(pipeline: beam.Pipeline, name: str, values: Sequence[Any]) -> beam.PCollection:
  """Returns values as elements that the runner distributes over its workers."""
  return (
    pipeline | f'{name}: list' >> beam.Create(list(values)) | f'{name}: spread' >> beam.Reshuffle()
  )


def packed(block_arrays: dict[str, np.ndarray]) -> bytes:
  """Returns arrays as one element."""
  return parts.to_bytes(block_arrays)


__all__ = ['AsSingleton', 'Sum', 'Task', 'numbers', 'packed', 'run']
