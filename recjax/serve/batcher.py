"""Gathers requests into waves: batches of one search under a budget of beam rows and a longest wait."""

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
import dataclasses
import logging
import math
from typing import Any

from recjax.serve.metrics import Metrics
from recjax.serve.wire import Query, Refused

log = logging.getLogger(__name__)

_MEMORY = 0.2  # weight of the newest wave in the mean rate of answers


@dataclasses.dataclass
class _Entry:
  query: Query
  arrived: float
  future: asyncio.Future


class Batcher:
  """A queue of requests and the loop that answers them, wave by wave.

  A wave holds requests of one number of beams, in the order of arrival. It starts when the search is free and the
  first request has waited long enough, or the wave is full. While the search is busy the next wave gathers, so under
  load no request waits for the timer.
  """

  def __init__(
    self,
    answer: Callable[[list[Query]], Sequence[Any]],
    thread: Executor,
    size: Callable[[int], int],
    max_wait: float,
    max_queue: int,
    metrics: Metrics,
  ):
    """Makes an empty queue; `run` answers it.

    Args:
      answer: queries → results, in their order; a result that is an exception is raised to its caller.
      thread: runs `answer`; one thread, so that waves do not overlap.
      size: number of beams → requests of a wave.
      max_wait: seconds that the first request of a wave waits for others.
      max_queue: requests that wait.
      metrics: counts waves and waiting requests.
    """
    self._answer, self._thread, self._metrics = answer, thread, metrics
    self._size, self._max_wait, self._max_queue = size, max_wait, max_queue
    self._queues: dict[int, collections.deque[_Entry]] = {}
    self._waiting = 0
    self._rate = 0.0  # answers a second
    self._changed = asyncio.Event()

  @property
  def waiting(self) -> int:
    """Number of requests that wait for a wave."""
    return self._waiting

  async def submit(self, queries: Sequence[Query]) -> list[Any]:
    """Returns the results of queries, in their order; cancelling it removes those that wait.

    Raises:
      Refused: the queue is full, with the status 429 and Retry-After; or a query is wrong.
    """
    if self._waiting + len(queries) > self._max_queue:
      seconds = self._waiting / self._rate if self._rate else 1.0
      raise Refused(
        429,
        f'at most {self._max_queue:,} requests may wait; {self._waiting:,} do, this call has {len(queries):,}',
        {'Retry-After': str(max(1, math.ceil(seconds)))},
      )
    loop = asyncio.get_running_loop()
    futures = []
    for query in queries:
      future = loop.create_future()
      future.add_done_callback(self._left)
      entry = _Entry(query, loop.time(), future)
      self._queues.setdefault(query.beams, collections.deque()).append(entry)
      futures.append(future)
    self._waiting += len(futures)
    self._metrics.queue.set(self._waiting)
    self._changed.set()
    try:
      return await asyncio.gather(*futures)
    finally:
      for future in futures:  # the others of a call of which one is refused, too
        future.cancel()

  async def run(self) -> None:
    """Answers waves until it is cancelled."""
    while True:
      wave = await self._next_wave()
      if wave:
        await self._run_wave(wave)

  async def _next_wave(self) -> list[_Entry]:
    loop = asyncio.get_running_loop()
    while True:
      self._changed.clear()
      queue = self._oldest()
      if queue is None:
        await self._changed.wait()
        continue
      left = queue[0].arrived + self._max_wait - loop.time()
      most = self._size(queue[0].query.beams)
      if left <= 0 or len(queue) >= most:
        return self._taken(queue, most)
      try:
        async with asyncio.timeout(left):
          await self._changed.wait()
      except TimeoutError:
        return self._taken(queue, most)

  def _oldest(self) -> collections.deque[_Entry] | None:
    """Returns the queue whose first request has waited longest; None: nobody waits."""
    for queue in self._queues.values():
      while queue and queue[0].future.done():  # its caller is gone
        queue.popleft()
    filled = [queue for queue in self._queues.values() if queue]
    return min(filled, key=lambda queue: queue[0].arrived, default=None)

  def _taken(self, queue: collections.deque[_Entry], most: int) -> list[_Entry]:
    wave = []
    while queue and len(wave) < most:
      entry = queue.popleft()
      if not entry.future.done():
        wave.append(entry)
        entry.future.remove_done_callback(self._left)
    self._waiting -= len(wave)
    self._metrics.queue.set(self._waiting)
    return wave

  def _left(self, _) -> None:
    """Counts a request out whose caller left before its wave."""
    self._waiting -= 1
    self._metrics.queue.set(self._waiting)

  async def _run_wave(self, wave: list[_Entry]) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    for entry in wave:
      self._metrics.wait_seconds.observe(start - entry.arrived)
    queries = [entry.query for entry in wave]
    results = await loop.run_in_executor(self._thread, self._results, queries)
    seconds = loop.time() - start
    rate = len(wave) / max(seconds, 1e-6)
    self._rate = (1 - _MEMORY) * self._rate + _MEMORY * rate if self._rate else rate
    self._metrics.waves.observe(len(wave))
    self._metrics.wave_seconds.observe(seconds)
    for entry, result in zip(wave, results, strict=True):
      if entry.future.done():
        continue
      if isinstance(result, Exception):
        entry.future.set_exception(result)
      else:
        entry.future.set_result(result)

  def _results(self, queries: list[Query]) -> Sequence[Any]:
    """Answers a wave; after an error each request alone, so that one cannot harm the others."""
    try:
      return self._answer(queries)
    except Exception as error:
      log.exception('a wave of %d requests failed', len(queries))
      if len(queries) == 1:
        return [error]
    return [result for query in queries for result in self._results([query])]
