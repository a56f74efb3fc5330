"""A client of one OpenAI-compatible endpoint over HTTP, with a rate limit and retries."""

from collections.abc import Callable
import contextlib
import datetime
import email.utils
import http.client
import json
import random
import ssl
import threading
import time
from typing import Any, TypeVar
import urllib.error
import urllib.parse
import urllib.request

from recjax.schema.items import Keywords

_RETRY_TEMPERATURE = 0.5  # after an invalid answer; temperature 0 would repeat it
_FIRST_PAUSE_S, _MAX_PAUSE_S = 2.0, 60.0
_MAX_RETRY_AFTER_S = 900.0  # a longer pause means that the quota is used up
_MAX_BODY = 1 << 24  # bytes
# OSError includes URLError, timeouts and broken connections.
_TRANSIENT = (http.client.HTTPException, OSError)
_RETRIED = (408, 425, 429)  # retried, like 500 to 599
_ADVICE = {
  401: 'Set the environment variable that --config.keywords.api_key_variable names to a valid key',
  403: 'The key may not use this model: see --config.keywords.model and the endpoint',
  404: 'Check --config.keywords.url (up to and without /chat/completions) and --config.keywords.model',
}

T = TypeVar('T')


class GaveUpError(Exception):
  """All attempts to ask a question failed. The message states the last failure."""


class StoppedError(Exception):
  """The question was abandoned because another one failed."""


class _Retry(Exception):
  """An attempt failed and may be retried, after the pause that the endpoint requests, if any."""

  def __init__(self, problem: str, after: float | None = None, is_invalid: bool = False):
    super().__init__(problem)
    self.after, self.is_invalid = after, is_invalid


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """Rejects redirects: they would send the key to another server and turn a POST into a GET."""

  def redirect_request(self, *args: Any) -> None:
    return None


class Endpoint:
  """Requests chat completions of a model. Threads may share an endpoint; they then share its rate limit.

  Args:
    section: the fields `url`, `model`, `requests_per_minute`, `max_retries` and `timeout` are read.
    key: the bearer token; empty: no token is sent. Messages never contain it.
    first_pause: seconds before the second attempt. Each further pause is twice as long; all are multiplied by
      a random number in [0.5, 1.5].

  Attributes:
    stop: an event; when it is set, no more requests are sent.
  """

  def __init__(self, section: Keywords, key: str = '', first_pause: float = _FIRST_PAUSE_S):
    self._section, self._key, self._first_pause = section, key, first_pause
    self._url = section.url.rstrip('/') + '/chat/completions'
    self._gap = 60.0 / section.requests_per_minute
    self._next_turn, self._turn_lock = 0.0, threading.Lock()
    self._sends_temperature = True
    self.stop = threading.Event()
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if urllib.parse.urlsplit(section.url).hostname in ('localhost', '127.0.0.1', '::1'):
      # No proxy: it would resolve localhost to its own machine.
      handlers.append(urllib.request.ProxyHandler({}))
    self._opener = urllib.request.build_opener(*handlers)

  def ask(
    self, messages: list[dict[str, str]], parse: Callable[[str], T]
  ) -> tuple[T, dict[str, Any]]:
    """Asks until `parse` accepts the answer.

    Args:
      messages: the chat.
      parse: converts the model's text; raises ValueError to reject it.

    Returns:
      The result of `parse`, and the `usage` that the endpoint reports (perhaps empty).

    Raises:
      ValueError: the endpoint rejects the request; a retry would fail again.
      GaveUpError: every attempt failed.
      StoppedError: `stop` was set.
    """
    temperature = 0.0
    for attempt in range(self._section.max_retries + 1):
      self._wait_for_turn()
      try:
        return self._attempt(messages, parse, temperature)
      except _Retry as retry:
        problem = str(retry)
        if retry.is_invalid:
          temperature = _RETRY_TEMPERATURE
        if (retry.after or 0) > _MAX_RETRY_AFTER_S:
          problem += f', and asks for a pause of {retry.after:,.0f} s'
          break
        if attempt < self._section.max_retries:
          self._pause(attempt, retry.after)
    raise GaveUpError(f'{problem} ({attempt + 1} attempts)')

  def _wait_for_turn(self) -> None:
    with self._turn_lock:
      now = time.monotonic()
      turn = max(now, self._next_turn)
      self._next_turn = turn + self._gap
    if self.stop.wait(turn - now):
      raise StoppedError

  def _pause(self, attempt: int, after: float | None) -> None:
    if after is not None:
      with self._turn_lock:  # the pause applies to all threads
        self._next_turn = max(self._next_turn, time.monotonic() + after)
      return
    pause = min(self._first_pause * 2**attempt, _MAX_PAUSE_S) * random.uniform(0.5, 1.5)
    if self.stop.wait(pause):
      raise StoppedError

  def _attempt(
    self, messages: list[dict[str, str]], parse: Callable[[str], T], temperature: float
  ) -> tuple[T, dict[str, Any]]:
    body = self._post(messages, temperature)
    try:
      answer = json.loads(body)
      content = answer['choices'][0]['message']['content']
    except (ValueError, KeyError, IndexError, TypeError):
      content = None
    if not isinstance(content, str):
      shown = self._hide(body[:200].decode(errors='replace'))
      raise _Retry(f'the body is no chat completion: {shown!r}')
    try:
      parsed = parse(content)
    except ValueError as error:
      raise _Retry(self._hide(str(error)), is_invalid=True) from None
    usage = answer.get('usage')
    return parsed, usage if isinstance(usage, dict) else {}

  def _post(self, messages: list[dict[str, str]], temperature: float) -> bytes:
    fields = {'model': self._section.model, 'messages': messages}
    with_temperature = self._sends_temperature
    if with_temperature:
      fields['temperature'] = temperature
    headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
    if self._key:
      headers['Authorization'] = f'Bearer {self._key}'
    request = urllib.request.Request(self._url, json.dumps(fields).encode(), headers)
    try:
      with self._opener.open(request, timeout=self._section.timeout) as response:
        body = response.read(_MAX_BODY)
        if response.length:  # the number of announced bytes that are missing
          raise http.client.IncompleteRead(body, response.length)
        return body
    except urllib.error.HTTPError as error:
      with error:
        self._raise_http_error(error, with_temperature)
    except _TRANSIENT as error:
      reason = getattr(error, 'reason', error)
      if isinstance(reason, ssl.SSLCertVerificationError):
        raise ValueError(f'{self._url} has no valid certificate: {reason.verify_message}') from None
      raise _Retry(self._hide(f'{type(reason).__name__}: {reason}')) from None

  def _raise_http_error(self, error: urllib.error.HTTPError, with_temperature: bool) -> None:
    """Raises the error for an HTTP status."""
    try:
      body = error.read(_MAX_BODY).decode(errors='replace')
    except _TRANSIENT:
      body = ''
    shown = self._hide(' '.join(f'HTTP {error.code} {error.reason} {body}'.split())[:300])
    if error.code in _RETRIED or 500 <= error.code <= 599:
      raise _Retry(shown, _retry_after(error.headers.get('Retry-After')))
    if error.code == 400 and 'temperature' in body and with_temperature:
      self._sends_temperature = False  # some models reject a temperature
      raise _Retry(shown, after=0.0)
    advice = _ADVICE.get(error.code, 'Check --config.keywords.url and --config.keywords.model')
    raise ValueError(f'{self._url} rejects the request: {shown}. {advice}')

  def _hide(self, text: str) -> str:
    return text.replace(self._key, '***') if self._key else text


def _retry_after(value: str | None) -> float | None:
  """The seconds of a Retry-After header, which holds seconds or a date; None if it is invalid."""
  with contextlib.suppress(TypeError, ValueError):
    return max(float(value), 0.0)
  with contextlib.suppress(TypeError, ValueError):  # TypeError: a date without a time zone
    date = email.utils.parsedate_to_datetime(value)
    return max((date - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
  return None
