"""Measures the service under load: closed-loop clients, every answer compared with the offline one.

The clients run in a process of their own on the same machine. Some of them hang up while they wait. With --swap the
catalogue is swapped and rolled back all the time; every answer must then equal the offline one of the version that it
names.

Command:  python -m bench.serve --workdir=runs/demo --clients=200 --seconds=60   (after `make demo`)
"""

import asyncio
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
_SERVE = flags.DEFINE_multi_string(
  'serve', [], 'Another flag of the service, such as --max_wave=256.'
)
_KS = (5, 10, 20)


class Load:
  """Calls, their answers, and how they differ from the offline ones."""

  def __init__(self, port: int, bodies: list[bytes], expected: list[list[tuple[str, float]]]):
    self.port, self.bodies, self.expected = port, bodies, expected
    self.seconds: list[float] = []
    self.errors: list[str] = []
    self.same = self.other_items = self.other_scores = self.hung_up = 0

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
        self._compare(json.loads(answer), self.expected[n])
    client.close()

  def _compare(self, answer: dict, expected: list[tuple[str, float]]) -> None:
    got = [(each['item'], each['score']) for each in answer['recommendations']]
    if [item for item, _ in got] != [item for item, _ in expected]:
      self.other_items += 1
    elif got != expected:
      self.other_scores += 1
    else:
      self.same += 1


@contextlib.contextmanager
def service(arguments: list[str]):
  """Starts the service and yields its port; SIGTERM ends it."""
  command = [sys.executable, '-m', 'recjax.main', '--mode=serve', '--port=0', *arguments]
  with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
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


def _requests(workdir: epath.Path, most: int) -> list[Request]:
  """Returns requests of test users, with different numbers of items."""
  config = identity.required_config(workdir)
  dataset = Dataset.load(_PREPARED.value or paths.prepared_data(config, workdir))
  histories, _ = dataset.histories_and_targets('test')
  rows = np.random.default_rng(0).permutation(len(histories))[: _HISTORIES.value]
  ids = [item['id'] for item in dataset.items]
  ks = [k for k in _KS if k <= most]
  return [
    Request(history=[ids[i] for i in histories[u]], k=ks[n % len(ks)]) for n, u in enumerate(rows)
  ]


def _offline(
  recommender: Recommender, requests: list[Request], size: int
) -> tuple[list[list[tuple[str, float]]], dict[str, float]]:
  """Returns the answers, and the milliseconds of a wave and of a request alone."""
  waves = [requests[start : start + size] for start in range(0, len(requests), size)]
  answers = [recommender.answer(wave, size=size) for wave in waves]
  start = time.perf_counter()
  for wave in waves:
    recommender.answer(wave, size=size)
  wave_ms = 1000 * (time.perf_counter() - start) / len(waves)
  recommender.answer(requests[:1])
  start = time.perf_counter()
  for request in requests[:32]:
    recommender.answer([request])
  alone_ms = 1000 * (time.perf_counter() - start) / len(requests[:32])
  found = [
    [(each.item, each.score) for each in answer.recommendations]
    for wave in answers
    for answer in wave
  ]
  return found, {
    'wave_ms': wave_ms,
    'ms_of_a_wave_by_request': wave_ms / size,
    'alone_ms': alone_ms,
  }


async def _run(load: Load) -> float:
  start = time.perf_counter()
  until = start + _SECONDS.value
  await asyncio.gather(*(load.client(n, until, _DYING.value) for n in range(_CLIENTS.value)))
  return time.perf_counter() - start


def main(_) -> None:
  logs.set_up()
  workdir = epath.Path(os.path.abspath(_WORKDIR.value))
  recommender = Recommender.from_workdir(workdir, prepared_dir=_PREPARED.value)
  requests = _requests(workdir, recommender.beams)
  bodies = [json.dumps({'history': r.history, 'k': r.k}).encode() for r in requests]
  flags_of_service = [f'--workdir={workdir}', *_SERVE.value]
  if _PREPARED.value:
    flags_of_service.append(f'--config.data.prepared_dir={os.path.abspath(_PREPARED.value)}')
  with service(flags_of_service) as port:
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/catalogue') as answer:
      size = json.load(answer)['waves'][str(recommender.beams)]
    expected, search = _offline(recommender, requests, size)
    load = Load(port, bodies, expected)
    seconds = asyncio.run(_run(load))
  p50, p99 = (1000 * float(x) for x in np.quantile(load.seconds or [0], (0.5, 0.99)))
  result = {
    'clients': _CLIENTS.value,
    'seconds': seconds,
    'requests': len(load.seconds),
    'requests_per_sec': len(load.seconds) / seconds,
    'errors': len(load.errors),
    'hung_up': load.hung_up,
    'equal': load.same,
    'other_scores': load.other_scores,
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
