"""Measures the service under load: closed-loop clients, every answer compared with the offline one.

The clients run in a process of their own on the same machine. Some of them hang up while they wait. With --swap the
catalogue is swapped and rolled back all the time; every answer must then equal the offline one of the version that it
names.

Command:  python -m bench.serve --workdir=runs/demo --clients=200 --seconds=60   (after `make demo`)
"""

import asyncio
from collections.abc import Container
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

from absl import app, flags
from etils import epath
import numpy as np

from bench.circumstances import circumstances, show, write
from bench.serve_client import Client
from recjax.data.dataset import Dataset
from recjax.data.requests import Request
from recjax.decode.catalogue import Catalogue
from recjax.recommend import Recommender
from recjax.runtime import logs
from recjax.workdir import identity, paths

_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Workdir of a run.')
_PREPARED = flags.DEFINE_string(
  'prepared_dir', None, 'Folder of its prepared data. Default: where the run found them.'
)
_CLIENTS = flags.DEFINE_integer(
  'clients', 200, 'Clients; each sends its next call after an answer.'
)
_SECONDS = flags.DEFINE_float('seconds', 60.0, 'Seconds of load.')
_HISTORIES = flags.DEFINE_integer('histories', 512, 'Different histories.')
_DYING = flags.DEFINE_float(
  'dying', 0.01, 'Share of calls whose client hangs up before the answer.'
)
_SWAP = flags.DEFINE_string(
  'swap', None, 'Folder of another catalogue, which is swapped in and rolled back all the time.'
)
_SERVE = flags.DEFINE_multi_string(
  'serve', [], 'Another flag of the service, such as --max_wave=256.'
)
_KS = (5, 10, 20)
_ROOM = 1.25  # the default of the service
_TOKEN = 'bench'
_BETWEEN_SWAPS = 2.0  # seconds

Items = list[tuple[str, float]]


class Load:
  """Calls, their answers, and how they differ from the offline ones."""

  def __init__(self, port: int, bodies: list[bytes], expected: dict[str, list[Items]]):
    """Prepares the calls: `expected` has the answers to the bodies by the version of the catalogue."""
    self.port, self.bodies, self.expected = port, bodies, expected
    self.by_version = dict.fromkeys(expected, 0)
    self.seconds: list[float] = []
    self.errors: list[str] = []
    self.same = self.other_items = self.other_scores = self.hung_up = 0
    self.difference = 0.0  # the largest of a score

  async def client(self, number: int, until: float, dying: float) -> None:
    rng = np.random.default_rng([0, number])
    client = Client(self.port)
    await asyncio.sleep(float(rng.uniform(0, 0.5)))
    while time.perf_counter() < until:
      n = int(rng.integers(len(self.bodies)))
      try:
        if rng.random() < dying:
          await client.hang_up('/recommend', self.bodies[n], float(rng.uniform(0, 0.02)))
          self.hung_up += 1
          continue
        start = time.perf_counter()
        status, _, answer = await client.call('POST', '/recommend', self.bodies[n])
        self.seconds.append(time.perf_counter() - start)
      except (OSError, asyncio.IncompleteReadError) as error:
        self.errors.append(repr(error))
        continue
      if status != 200:
        self.errors.append(f'{status} {answer}')
      else:
        self._compare(json.loads(answer), n)
    client.close()

  async def swap(self, folder: str, until: float) -> int:
    """Swaps the catalogue and rolls back all the time, and returns the number of changes."""
    client, headers, changes = Client(self.port), {'Authorization': f'Bearer {_TOKEN}'}, 0
    while time.perf_counter() < until:
      await asyncio.sleep(_BETWEEN_SWAPS)
      body = {'roll_back': True} if changes % 2 else {'swap': folder}
      status, _, answer = await client.call(
        'POST', '/catalogue', json.dumps(body).encode(), headers
      )
      changes += 1
      if status != 200:
        self.errors.append(f'{status} {answer}')
    client.close()
    return changes

  def _compare(self, answer: dict, n: int) -> None:
    expected = self.expected[answer['catalogue']][n]
    self.by_version[answer['catalogue']] += 1
    got = [(each['item'], each['score']) for each in answer['recommendations']]
    if [item for item, _ in got] != [item for item, _ in expected]:
      self.other_items += 1
    elif got != expected:
      self.other_scores += 1
      pairs = zip(got, expected, strict=True)
      self.difference = max(self.difference, *(abs(a[1] - b[1]) for a, b in pairs))
    else:
      self.same += 1


@contextlib.contextmanager
def service(arguments: list[str]):
  """Starts the service and yields its port; SIGTERM ends it."""
  command = [sys.executable, '-m', 'recjax.main', '--mode=serve', '--port=0', *arguments]
  environment = os.environ | {'RECJAX_SERVE_TOKEN': _TOKEN}
  with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
    try:
      for line in process.stderr:
        print(line, end='', file=sys.stderr)
        if found := re.search(r'ready: http://[^ ]*:(\d+)', line):
          yield int(found[1])
          return
      raise RuntimeError('the service ended before it was ready')
    finally:
      process.terminate()
      print(process.stderr.read(), end='', file=sys.stderr)


def _requests(workdir: epath.Path, most: int, known: Container[str]) -> list[Request]:
  """Returns requests of test users whose items are known, with different numbers of recommendations."""
  config = identity.required_config(workdir)
  dataset = Dataset.load(_PREPARED.value or paths.prepared_data(config, workdir))
  histories, _ = dataset.histories_and_targets('test')
  rows = np.random.default_rng(0).permutation(len(histories))[: _HISTORIES.value]
  ids = [item['id'] for item in dataset.items]
  ks = [k for k in _KS if k <= most]
  found = [[ids[i] for i in histories[u]] for u in rows]
  found = [history for history in found if all(item in known for item in history)]
  return [Request(history=history, k=ks[n % len(ks)]) for n, history in enumerate(found)]


def _offline(
  recommender: Recommender, requests: list[Request], size: int
) -> tuple[list[Items], dict[str, float]]:
  """Returns the answers, and the milliseconds of a wave and of a request alone."""
  waves = [requests[start : start + size] for start in range(0, len(requests), size)]
  found = _answers(recommender, waves, size)
  start = time.perf_counter()
  for wave in waves:
    recommender.answer(wave, size=size)
  wave_ms = 1000 * (time.perf_counter() - start) / len(waves)
  recommender.answer(requests[:1])
  start = time.perf_counter()
  for request in requests[:32]:
    recommender.answer([request])
  alone_ms = 1000 * (time.perf_counter() - start) / len(requests[:32])
  return found, {
    'wave_ms': wave_ms,
    'ms_of_a_wave_by_request': wave_ms / size,
    'alone_ms': alone_ms,
  }


def _answers(recommender: Recommender, waves: list[list[Request]], size: int) -> list[Items]:
  return [
    [(each.item, each.score) for each in answer.recommendations]
    for wave in waves
    for answer in recommender.answer(wave, size=size)
  ]


async def _run(load: Load, swap: str | None) -> tuple[float, int]:
  """Returns the seconds of the load and the number of changes of the catalogue."""
  start = time.perf_counter()
  until = start + _SECONDS.value
  clients = asyncio.gather(*(load.client(n, until, _DYING.value) for n in range(_CLIENTS.value)))
  changes = await load.swap(swap, until) if swap else 0
  await clients
  return time.perf_counter() - start, changes


def main(_) -> None:
  logs.set_up()
  workdir = epath.Path(os.path.abspath(_WORKDIR.value))
  recommender = Recommender.from_workdir(workdir, prepared_dir=_PREPARED.value, room=_ROOM)
  other = _SWAP.value and Catalogue.load(os.path.abspath(_SWAP.value))
  known = (other or recommender.catalogue).index
  requests = _requests(workdir, recommender.beams, known)
  bodies = [json.dumps({'history': r.history, 'k': r.k}).encode() for r in requests]
  flags_of_service = [f'--workdir={workdir}', *_SERVE.value]
  if _PREPARED.value:
    flags_of_service.append(f'--config.data.prepared_dir={os.path.abspath(_PREPARED.value)}')
  with service(flags_of_service) as port:
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/catalogue') as answer:
      size = json.load(answer)['waves'][str(recommender.beams)]
    found, search = _offline(recommender, requests, size)
    expected = {recommender.catalogue.version: found}
    if other:
      recommender.swap(other)
      expected[other.version] = _offline(recommender, requests, size)[0]
    load = Load(port, bodies, expected)
    seconds, changes = asyncio.run(_run(load, other and os.path.abspath(_SWAP.value)))
  p50, p99 = (1000 * float(x) for x in np.quantile(load.seconds or [0], (0.5, 0.99)))
  result = {
    'clients': _CLIENTS.value,
    'seconds': seconds,
    'requests': len(load.seconds),
    'requests_per_sec': len(load.seconds) / seconds,
    'errors': len(load.errors),
    'hung_up': load.hung_up,
    'changes_of_the_catalogue': changes,
    'answers_by_version': load.by_version,
    'equal': load.same,
    'other_scores': load.other_scores,
    'largest_difference_of_a_score': load.difference,
    'other_items': load.other_items,
    'p50_ms': p50,
    'p99_ms': p99,
    'requests_of_a_wave': size,
    'search': search,
  }
  for error in load.errors[:5]:
    print(error, file=sys.stderr)
  show(result)
  write({'circumstances': circumstances()} | result)


if __name__ == '__main__':
  app.run(main)
