"""The endpoints of the service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
import functools
import hmac
import logging
import os
import time
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from recjax.serve import page, wire
from recjax.serve.batcher import Batcher
from recjax.serve.engine import Engine
from recjax.serve.metrics import CONTENT_TYPE, Metrics
from recjax.serve.wire import Query, Refused
from recjax.workdir.serving import Serving

log = logging.getLogger(__name__)

TOKEN = 'RECJAX_SERVE_TOKEN'
_DISCARDED = (
  64  # bodies of the largest size that are read and dropped, so that the client sees the refusal
)
_FOUND = 20  # items of a search by title, unless `limit` is given
_MOST_FOUND = 100
_GONE = Response(status_code=499)  # nobody reads it


class Service:
  """The state behind the endpoints.

  Attributes:
    engine: answers; None until it is loaded and warm.
    batcher: its queue.
    thread: that of the search.
    is_draining: whether new requests are refused because the process ends.
    in_flight: calls to /recommend that are not answered yet.
  """

  def __init__(self, serving: Serving, metrics: Metrics):
    self.engine: Engine | None = None
    self.batcher: Batcher | None = None
    self.thread: Executor | None = None
    self._changing = asyncio.Lock()
    self.is_draining, self.in_flight = False, 0
    self.serving, self.metrics = serving, metrics

  @property
  def app(self) -> Starlette:
    """Returns the application."""
    routes = [
      Route('/', self._page),
      *(Route(f'/{name}', self._page) for name in page.FILES),
      *self._routes(),
    ]
    handlers: Mapping[Any, Any] = {Refused: _refused, HTTPException: _http_error, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers)

  def _routes(self) -> list[Route]:
    endpoints = {
      '/recommend': (self._recommend, 'POST'),
      '/items': (self._items, 'GET'),
      '/catalogue': (self._catalogue, 'GET', 'POST'),
      '/healthz': (self._healthz, 'GET'),
      '/readyz': (self._readyz, 'GET'),
      '/metrics': (self._metrics, 'GET'),
    }
    return [
      Route(path, self._counted(path, endpoint), methods=list(methods))
      for path, (endpoint, *methods) in endpoints.items()
    ]

  def _counted(self, path: str, endpoint: Callable[[Request], Awaitable[Response]]):
    """Returns an endpoint that counts its calls by status, and their time."""

    async def counted(request: Request) -> Response:
      start = time.perf_counter()
      status = 500
      try:
        try:
          response = await endpoint(request)
        except Refused as refused:
          response = await _refused(request, refused)
        except ClientDisconnect:
          self.metrics.disconnects.inc()
          response = _GONE
        status = response.status_code
        return response
      finally:
        self.metrics.calls.labels(path, str(status)).inc()
        self.metrics.call_seconds.labels(path).observe(time.perf_counter() - start)

    return counted

  async def _page(self, request: Request) -> Response:
    return page.response(request.url.path.lstrip('/'))

  async def _recommend(self, request: Request) -> Response:
    self._check_open()
    self.in_flight += 1
    self.metrics.in_flight.set(self.in_flight)
    deadline = asyncio.get_running_loop().time() + self.serving.timeout_s
    try:
      body = await self._body(request)
      engine, batcher = self._opened()
      limits = engine.limits(self.serving.max_queue)
      is_one, queries = wire.queries(wire.parse(body), limits)
      found = await self._unless_gone(request, _of_one_version(batcher, queries), deadline)
      self.metrics.requests.inc(len(queries))
      return _json(found[0] if is_one else found)
    finally:
      self.in_flight -= 1
      self.metrics.in_flight.set(self.in_flight)

  def _check_open(self) -> None:
    if self.is_draining:
      headers = {'Retry-After': '1', 'Connection': 'close'}
      raise Refused(503, 'the service is ending: send the request to another one', headers)
    self._opened()

  def _opened(self) -> tuple[Engine, Batcher]:
    if self.engine is None or self.batcher is None:
      raise Refused(503, 'the service is loading: ask /readyz', {'Retry-After': '2'})
    return self.engine, self.batcher

  async def _unless_gone(
    self, request: Request, answers: Awaitable[list[Any]], deadline: float
  ) -> list[Any]:
    """Returns the answers, unless the client leaves or the time is over; then their requests leave the queue.

    Raises:
      Refused: the time limit.
      ClientDisconnect: the client left.
    """
    work = asyncio.ensure_future(answers)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
      left = deadline - asyncio.get_running_loop().time()
      await asyncio.wait({work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
      if work.done():
        return work.result()
      if gone.done():
        raise ClientDisconnect
      late = f'no answer within {self.serving.timeout_s:g} s (--timeout_s)'
      raise Refused(504, late, {'Retry-After': '1'})
    finally:
      for task in (work, gone):
        task.cancel()

  async def _body(self, request: Request) -> bytes:
    """Reads the body.

    Raises:
      Refused: it is too large, or does not arrive in time.
      ClientDisconnect: the client left.
    """
    try:
      async with asyncio.timeout(self.serving.timeout_s):
        return await self._read(request)
    except TimeoutError:
      late = f'the body must arrive within {self.serving.timeout_s:g} s'
      raise Refused(408, late, {'Connection': 'close'}) from None

  async def _read(self, request: Request) -> bytes:
    most, size = int(self.serving.max_body_mb * 1e6), 0
    parts = []
    async for part in request.stream():
      size += len(part)
      if size <= most:
        parts.append(part)
      elif size > _DISCARDED * most:
        break
    if size > most:
      declared = request.headers.get('content-length', '')
      got = declared if declared.isdecimal() else f'at least {size}'
      message = f'the body must have at most {most:,} bytes (--max_body_mb); got {got}'
      raise Refused(413, message, {'Connection': 'close'})
    return b''.join(parts)

  async def _items(self, request: Request) -> Response:
    engine, _ = self._opened()
    text, limit = request.query_params.get('q', ''), request.query_params.get('limit', str(_FOUND))
    digits, most = limit.lstrip('0'), len(str(_MOST_FOUND))
    is_number = limit.isdecimal() and limit.isascii() and 1 <= len(digits) <= most
    if not (is_number and int(digits) <= _MOST_FOUND):
      raise Refused(400, f'limit must be from 1 to {_MOST_FOUND}; got {limit[:80]!r}')
    found = await run_in_threadpool(engine.view.search, text[:1000], int(digits))
    return _json({'items': found})

  async def _catalogue(self, request: Request) -> Response:
    engine, _ = self._opened()
    if request.method == 'POST':
      self._check_open()
      _check_token(request)
      change = wire.change(wire.parse(await self._body(request)))
      async with self._changing:
        await self._change(engine, *change)
    return _json(engine.describe())

  async def _change(self, engine: Engine, folder: str | None, masks: str | None) -> None:
    """Takes the catalogue of a folder between two waves, or the earlier one if it is None."""
    start = time.perf_counter()
    try:
      if folder is None:
        await self._in_search(engine.roll_back)
      else:
        loaded = await run_in_threadpool(engine.load, folder, masks)
        await self._in_search(functools.partial(engine.take, loaded))
    except (ValueError, OSError) as error:
      raise Refused(400, str(error)) from error
    self.metrics.set_catalogue(engine.view.version)
    log.info('catalogue %s after %.1f s', engine.view.version, time.perf_counter() - start)

  async def _in_search(self, function: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(self.thread, function)

  async def _healthz(self, request: Request) -> Response:
    return _json({'status': 'alive'})

  async def _readyz(self, request: Request) -> Response:
    if self.is_draining:
      raise Refused(503, 'the service is ending')
    self._opened()
    return _json({'status': 'ready'})

  async def _metrics(self, request: Request) -> Response:
    return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _of_one_version(batcher: Batcher, queries: Sequence[Query]) -> list[Any]:
  """Returns the answers of a call, from one catalogue: if a list spans a swap, all of it is asked for again.

  Raises:
    Refused: see `Batcher.submit`.
  """
  found = await batcher.submit(queries)
  while len({fields['catalogue'] for fields in found}) > 1:
    found = await batcher.submit(queries)
  return found


def _check_token(request: Request) -> None:
  """Refuses a call without the token of the environment.

  Raises:
    Refused: there is no token in the environment, or the call has another one.
  """
  token = os.environ.get(TOKEN, '').strip()
  if not token:
    raise Refused(403, f'the service takes no change: set {TOKEN} in its environment, and restart')
  kind, _, given = request.headers.get('authorization', '').partition(' ')
  # Starlette reads the bytes of a header as latin-1.
  is_equal = hmac.compare_digest(given.strip().encode('latin-1'), os.fsencode(token))
  if kind.lower() != 'bearer' or not is_equal:
    message = f'the header must be "Authorization: Bearer TOKEN" with the value of {TOKEN}'
    raise Refused(401, message, {'WWW-Authenticate': 'Bearer'})


async def _disconnected(request: Request) -> None:
  """Returns when the client has left; the body must have been read."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
  return Response(wire.encode(value), status, headers, 'application/json')


async def _refused(request: Request, refused: Refused) -> Response:
  return _json(refused.fields, refused.status, refused.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
  paths = '/recommend, /items, /catalogue, /healthz, /readyz and /metrics'
  text = f'{request.method} {request.url.path}: {error.detail}. The service has {paths}'
  return _json({'error': text}, error.status_code, error.headers)


async def _bug(request: Request, error: Exception) -> Response:
  return _json({'error': 'the service failed; its log has the reason'}, 500)
