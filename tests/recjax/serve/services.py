"""A running service in the loop of a test, over real sockets, with an engine that needs no model."""

import asyncio
import json
import threading

from bench.serve_client import Client
from recjax.serve import server
from recjax.serve.wire import Limits, Refused
from recjax.workdir.serving import Serving


class View:
  version = 'v1'

  def search(self, text, limit):
    return [{'item': text, 'title': f'<b>{limit}</b>'}]


class Engine:
  """Answers with the first item of the history; `gate` holds it back. The item 'bad' is refused, 'bug' is an error."""

  beams = (20,)
  prompts = None

  def __init__(self):
    self.gate, self.started, self.waves = threading.Event(), threading.Event(), []
    self.gate.set()
    self.view = View()

  def size(self, beams):
    return 4

  def limits(self, requests):
    return Limits(self.beams, requests, 100, 10, 1000)

  def answer(self, queries):
    self.started.set()
    assert self.gate.wait(20)
    names = [query.request.history[0] for query in queries]
    self.waves.append(names)
    if 'bug' in names:
      raise RuntimeError('a bug')
    refused = Refused(400, 'no such item', unknown=['bad'])
    return [
      refused if name == 'bad' else {'item': name, 'catalogue': self.view.version} for name in names
    ]

  def load(self, folder, masks=None):
    if folder == 'nowhere':
      raise ValueError('nowhere is no catalogue')
    return folder

  def take(self, loaded):
    self.earlier, self.view.version = self.view.version, loaded

  def roll_back(self):
    self.take(self.earlier)

  def describe(self):
    return {'catalogue': self.view.version}


class Running:
  """A running service and its clients."""

  def __init__(self, engine, listener, stop, task):
    self.engine, self.listener, self.stop, self.task = engine, listener, stop, task
    self.port = listener.getsockname()[1]

  async def call(self, method, path, body=b'', headers=None):
    """Returns status, headers and the JSON of an answer, by a connection of its own."""
    client = Client(self.port)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, found, answer = await client.call(method, path, body, headers)
    client.close()
    is_json = found['content-type'] == 'application/json'
    return status, found, json.loads(answer) if is_json else answer.decode()

  def ask(self, *items):
    body = [{'history': [item]} for item in items] if len(items) != 1 else {'history': [items[0]]}
    return asyncio.create_task(self.call('POST', '/recommend', body))

  async def metric(self, name):
    _, _, text = await self.call('GET', '/metrics')
    lines = [line.rpartition(' ') for line in text.splitlines()]
    return next((float(value) for key, _, value in lines if key == name), 0.0)

  async def until_started(self):
    while not self.engine.started.is_set():
      await asyncio.sleep(0.002)
    self.engine.started.clear()


def with_service(test, load=None, **flags):
  """Runs a test with a service that is ready."""

  async def main():
    engine = Engine()
    flags.setdefault('max_wait_ms', 1.0)
    serving = Serving(port=0, **flags)
    serving.check()
    stop, listener = asyncio.Event(), serving.bound()
    task = asyncio.create_task(server.run(load or (lambda: engine), serving, listener, stop))
    running = Running(engine, listener, stop, task)
    await asyncio.sleep(0.05)
    try:
      await test(running)
    finally:
      engine.gate.set()
      stop.set()
      await task

  asyncio.run(asyncio.wait_for(main(), 120))
