"""Waves: their budget, their order, their longest wait, and who is harmed by an error."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
import threading

import pytest

from recjax.data.requests import Request
from recjax.serve.batcher import Batcher
from recjax.serve.metrics import Metrics
from recjax.serve.wire import Query, Refused


class World:
  """A batcher whose search returns the items of the requests; `gate` holds it back."""

  def __init__(self, max_wait=0.0, max_queue=100, budget=80, wrong=()):
    self.waves, self.gate, self.wrong = [], threading.Event(), wrong
    self.gate.set()
    self.thread = ThreadPoolExecutor(1)
    self.batcher = Batcher(
      self.answer, self.thread, lambda beams: budget // beams, max_wait, max_queue, Metrics()
    )

  def answer(self, queries):
    self.gate.wait(10)
    names = [query.request.history[0] for query in queries]
    self.waves.append(names)
    if set(names) & set(self.wrong):
      raise RuntimeError(f'of {names}')
    return [name.upper() for name in names]

  async def __aenter__(self):
    self.loop = asyncio.create_task(self.batcher.run())
    return self

  async def __aexit__(self, *_):
    self.gate.set()
    self.loop.cancel()
    self.thread.shutdown()

  def submit(self, *names, beams=20):
    queries = [Query(Request(history=[name]), beams) for name in names]
    return asyncio.create_task(self.batcher.submit(queries))


def run(test):
  asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition):
  while not condition():
    await asyncio.sleep(0.001)


def test_waves_hold_requests_of_one_number_of_beams_in_their_order():
  async def test():
    async with World() as world:
      world.gate.clear()
      first = world.submit('a')
      await until(lambda: world.batcher.waiting == 0 and world.loop)
      await asyncio.sleep(0.01)
      calls = [world.submit('b', 'c'), world.submit('d', beams=40), world.submit('e', 'f', 'g'), world.submit('h', beams=40)]  # fmt: skip
      await until(lambda: world.batcher.waiting == 7)
      world.gate.set()
      assert await first == ['A']
      assert await asyncio.gather(*calls) == [['B', 'C'], ['D'], ['E', 'F', 'G'], ['H']]
      assert world.waves == [['a'], ['b', 'c', 'e', 'f'], ['d', 'h'], ['g']]
      assert world.batcher.waiting == 0

  run(test)


def test_a_wave_starts_when_it_is_full_or_its_first_request_has_waited():
  async def test():
    async with World(max_wait=0.15) as world:
      clock = asyncio.get_running_loop().time
      start = clock()
      calls = [world.submit('a'), world.submit('b')]
      await asyncio.gather(*calls)
      assert clock() - start >= 0.15
      assert world.waves == [['a', 'b']]
      start = clock()
      await world.submit('c', 'd', 'e', 'f')
      assert clock() - start < 0.15

  run(test)


def test_a_full_queue_refuses_with_the_time_to_wait():
  async def test():
    async with World(max_queue=5) as world:
      world.gate.clear()
      first = world.submit('a')
      await asyncio.sleep(0.02)
      waiting = world.submit('b', 'c', 'd')
      await until(lambda: world.batcher.waiting == 3)
      with pytest.raises(Refused, match='at most 5 requests may wait; 3 do, this call has 3') as caught:  # fmt: skip
        await world.submit('e', 'f', 'g')
      assert caught.value.status == 429
      assert int(caught.value.headers['Retry-After']) >= 1
      also = world.submit('h', 'i')
      world.gate.set()
      assert [await call for call in (first, waiting, also)] == [['A'], ['B', 'C', 'D'], ['H', 'I']]

  run(test)


def test_a_caller_who_leaves_makes_room_and_harms_no_other():
  async def test():
    async with World(max_queue=4) as world:
      world.gate.clear()
      searched = world.submit('a')
      await asyncio.sleep(0.02)  # it is in a wave
      left, stays = world.submit('b', 'c'), world.submit('d')
      await until(lambda: world.batcher.waiting == 3)
      left.cancel()
      searched.cancel()
      await until(lambda: world.batcher.waiting == 1)
      more = world.submit('e', 'f', 'g')
      world.gate.set()
      assert await asyncio.gather(stays, more) == [['D'], ['E', 'F', 'G']]
      assert world.waves == [['a'], ['d', 'e', 'f', 'g']]

  run(test)


def test_an_error_reaches_only_the_request_that_caused_it(caplog):
  async def test():
    async with World(max_wait=0.02, wrong=('c',)) as world:
      calls = [world.submit('a'), world.submit('b', 'c'), world.submit('d')]
      found = await asyncio.gather(*calls, return_exceptions=True)
      assert found[0] == ['A'] and found[2] == ['D']
      assert isinstance(found[1], RuntimeError)
      assert await world.submit('e') == ['E']

  run(test)
