"""Runs the service: listens at once, answers when the search is compiled, and drains at SIGTERM or Ctrl-C."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import logging
import os
import signal
import socket
import sys
import webbrowser

import uvicorn

from recjax.runtime import interrupt
from recjax.serve.app import Service
from recjax.serve.batcher import Batcher
from recjax.serve.engine import Engine
from recjax.serve.metrics import Metrics
from recjax.workdir.serving import Serving

log = logging.getLogger(__name__)

Load = Callable[[], Engine]

_KEEP_ALIVE = 30  # seconds that a connection may be idle
_GRACE = 5  # seconds for the last bytes of answers at the end
_BACKLOG = 2048
_TICK = 0.02  # seconds between two looks at the calls in flight, while the service drains


def serve(load: Load, serving: Serving) -> None:
  """Serves until SIGTERM or Ctrl-C; the calls in flight are answered then, and new ones get 503.

  Args:
    load: returns the compiled engine; it runs in the thread of the search.
    serving: address and limits.

  Raises:
    OSError: the service cannot listen on the address.
    Exception: any error of `load`.
  """
  listener = serving.bound()
  with interrupt.finishing('answering the requests in flight'):
    asyncio.run(_until_signal(load, serving, listener))


async def _until_signal(load: Load, serving: Serving, listener: socket.socket) -> None:
  loop, stop = asyncio.get_running_loop(), asyncio.Event()

  def handle(*_) -> None:
    loop.call_soon_threadsafe(stop.set)

  before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    await run(load, serving, listener, stop)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


class _Server(uvicorn.Server):
  """A server that leaves signals to `serve`."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


async def run(load: Load, serving: Serving, listener: socket.socket, stop: asyncio.Event) -> None:
  """Serves on a bound socket until `stop` is set; see `serve`."""
  loop = asyncio.get_running_loop()
  metrics = Metrics()
  service = Service(serving, metrics)
  # h11 and asyncio's own loop: what requirements-serve.txt pins, whatever else is installed.
  config = uvicorn.Config(
    service.app, log_config=None, access_log=False, loop='asyncio', http='h11', ws='none', lifespan='off',
    backlog=_BACKLOG, timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_GRACE, server_header=False,
  )  # fmt: skip
  logging.getLogger('uvicorn.error').setLevel(logging.ERROR)
  server = _Server(config)
  with ThreadPoolExecutor(1, 'search') as thread:
    tasks = [asyncio.create_task(server.serve([listener]))]
    url = _url(listener)
    log.info('listening on %s; loading the model and compiling the search', url)
    try:
      loading = loop.run_in_executor(thread, load)
      stopping = asyncio.create_task(stop.wait())
      await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
      if not loading.done():
        _end_at_once()
      engine = loading.result()
      service.thread = thread
      service.batcher = Batcher(
        engine.answer, thread, engine.size, serving.max_wait_ms / 1000, serving.max_queue, metrics
      )
      tasks.append(asyncio.create_task(service.batcher.run()))
      service.engine = engine
      if engine.prompts is not None:
        metrics.add_prompts(engine.prompts)
      metrics.ready.set(1)
      metrics.set_catalogue(engine.view.version)
      sizes = ' or '.join(
        f'{engine.size(beams)} requests x {beams} beams' for beams in engine.beams
      )
      log.info('ready: %s (waves of %s; SIGTERM or Ctrl-C drains)', url, sizes)
      if serving.open:
        _open(url)
      await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
      for task in tasks:
        if task.done():  # it never ends by itself, unless by a bug
          task.result()
      await _drain(service)
    finally:
      server.should_exit = True
      await tasks[0]
      for task in tasks[1:]:
        task.cancel()


async def _drain(service: Service) -> None:
  """Refuses new calls with 503, and waits for the answers of the others."""
  service.is_draining = True
  service.metrics.ready.set(0)
  log.info('draining: %d calls in flight', service.in_flight)
  while service.in_flight:
    await asyncio.sleep(_TICK)


def _end_at_once() -> None:
  """Ends the process while the search is compiled: nothing is in flight, and a compilation cannot be stopped."""
  log.info('ended before it was ready')
  sys.stderr.flush()
  os._exit(0)


def _url(listener: socket.socket) -> str:
  host, port = listener.getsockname()[:2]
  host = f'[{host}]' if ':' in host else host
  return f'http://{host}:{port}'


def _open(url: str) -> None:
  """Opens the page where there is a screen; browsers of a terminal would take the terminal."""
  if sys.platform == 'darwin' or os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'):
    webbrowser.open(url)
  else:
    log.info('no screen: open %s in a browser', url)
