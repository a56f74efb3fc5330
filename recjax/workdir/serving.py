"""The flags of --mode=serve, as one checked value."""

import dataclasses
import importlib.util
import re
import socket
from typing import Any

from absl import flags

PACKAGES = ('starlette', 'uvicorn', 'prometheus_client')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
  """How a service listens, and its limits.

  Attributes:
    host: address to listen on.
    port: TCP port. 0: a free one, which the log names.
    beams: beams that a request may choose, of which the first is the default. Empty: `eval.beams` alone.
    max_wave: beam rows of a wave, which is one batch of the search, of at most `eval.batch_size` requests. 0: 512 on
      CPUs, 4,096 on other devices.
    max_wait_ms: milliseconds that a request waits for others to share its wave.
    max_queue: requests that wait; more are refused with 429. Also the longest list of one call.
    timeout_s: seconds until a call is refused with 504.
    max_body_mb: size of a body in MB (1e6 bytes); a larger one is refused with 413.
    room: later catalogues may have so many times the items of the first.
    warm: whether waves of 1, 2, 4, … requests and several lengths of prompts have programs of their own, compiled at the
      start. False: every wave has the shape of the largest.
    keep_prompts: bytes for the keys and values of prompts that are kept between requests. 0: none are.
    open: whether the page is opened in a browser when the service is ready.
  """

  host: str = '127.0.0.1'
  port: int = 8080
  beams: tuple[int, ...] = ()
  max_wave: int = 0
  max_wait_ms: float = 3.0
  max_queue: int = 1000
  timeout_s: float = 10.0
  max_body_mb: float = 1.0
  room: float = 1.25
  warm: bool = False
  keep_prompts: int = 0
  open: bool = False

  def check(self) -> None:
    """Checks the values, the packages and the address.

    Raises:
      ValueError: a value is out of range, or a package is missing.
      OSError: the service cannot listen on the address.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
      raise ValueError(
        f'--mode=serve needs the packages of the extra [serve]; {", ".join(missing)} cannot be imported. Run: '
        "pip install 'recjax[serve]' (in a clone: pip install -r requirements-serve.txt)"
      )
    for name, (least, most) in _RANGES.items():
      values = getattr(self, name)
      for value in values if isinstance(values, tuple) else (values,):
        _check(least <= value <= most, f'--{name} must be from {least:,} to {most:,}', value)
    self.bound().close()

  def bound(self) -> socket.socket:
    """Returns a socket that is bound to the address.

    Raises:
      OSError: the address is in use, or not one of this machine.
    """
    try:
      found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
      family, kind, protocol, _, address = found[0]
      bound = socket.socket(family, kind, protocol)
      try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
      except OSError:
        bound.close()
        raise
    except OSError as error:
      raise OSError(
        f'--host and --port must be a free address of this machine; got {self.host} and {self.port}: '
        f'{error.strerror}. Set --port'
      ) from error
    return bound


_RANGES = {
  'port': (0, 65535),
  'beams': (1, 100_000),
  'max_wave': (0, 10**9),
  'max_wait_ms': (0, 60_000),
  'max_queue': (1, 10**6),
  'timeout_s': (0.1, 3600),
  'max_body_mb': (0.001, 1000),
  'room': (1, 100),
  'keep_prompts': (0, 2**50),
}
_HELP = {
  'host': (flags.DEFINE_string, 'address to listen on; 0.0.0.0: all of this machine.'),
  'port': (flags.DEFINE_integer, 'TCP port; 0: a free one, which the log names.'),
  'beams': (flags.DEFINE_list, 'beams that a request may choose, as 20,50; the first is the default. Empty: eval.beams. export: the same for a bundle.'),
  'max_wave': (flags.DEFINE_integer, 'beam rows of one batch of the search, of which every batch has the shape; 0: 512 on CPUs, 4,096 on other devices.'),
  'max_wait_ms': (flags.DEFINE_float, 'milliseconds that a request waits for others to share its batch.'),
  'max_queue': (flags.DEFINE_integer, 'requests that may wait; more are refused with 429.'),
  'timeout_s': (flags.DEFINE_float, 'seconds until a request is refused with 504.'),
  'max_body_mb': (flags.DEFINE_float, 'MB of the body of a request; more is refused with 413.'),
  'room': (flags.DEFINE_float, 'later catalogues may have so many times the items of the first (POST /catalogue).'),
  'warm': (flags.DEFINE_boolean, 'compile programs for small waves and short prompts too, before /readyz is 200: a later start, and quicker answers while few requests arrive.'),
  'keep_prompts': (flags.DEFINE_string, 'keep what the model computed for prompts, in at most so many bytes (such as 500MB or 2GiB), so that a history that grows is read from where it grew. 0: nothing is kept.'),
  'open': (flags.DEFINE_boolean, 'open the page in a browser when it is ready.'),
}  # fmt: skip
for _name, (_define, _text) in _HELP.items():
  _default = getattr(Serving, _name)
  if _define is flags.DEFINE_string:
    _default = str(_default)
  _define(_name, list(_default) if isinstance(_default, tuple) else _default, f'serve: {_text}')
  flags.declare_key_flag(_name)

FLAGS = tuple(_HELP)


def from_flags() -> Serving:
  """Returns the value of the flags.

  Raises:
    ValueError: see `beams` and `_bytes`.
  """
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in FLAGS}
  values |= {'beams': beams(), 'keep_prompts': _bytes(values['keep_prompts'])}
  return Serving(**values)


def beams() -> tuple[int, ...]:
  """Returns the value of --beams.

  Raises:
    ValueError: it holds something else than numbers.
  """
  texts = flags.FLAGS['beams'].value
  for text in texts:
    is_number = text.strip().isdecimal() and text.strip().isascii()
    _check(is_number and len(text) < 20, '--beams must be numbers, such as 20,50', text)
  return tuple(dict.fromkeys(int(text) for text in texts))


def check_beams(values: tuple[int, ...]) -> None:
  """Raises a ValueError if a number of beams is out of range."""
  least, most = _RANGES['beams']
  for value in values:
    _check(least <= value <= most, f'--beams must be from {least:,} to {most:,}', value)


def _bytes(text: str) -> int:
  """Returns a size such as 500MB, 1.5 GiB or 1073741824 in bytes.

  Raises:
    ValueError: it is none.
  """
  found = re.fullmatch(r'\s*(\d{1,18}(?:\.\d{1,9})?)\s*(?:([kmgt])(i?)b?|b)?\s*', text, re.I | re.A)
  must = '--keep_prompts must be a number of bytes, such as 1073741824, 500MB or 2GiB'
  if found is None:
    raise ValueError(f'{must}; got {text!r:.80}')
  number, prefix, is_binary = found.groups()
  base = 1024 if is_binary else 1000
  return int(float(number) * base ** (' kmgt'.index(prefix.lower()) if prefix else 0))


def _check(condition: bool, must: str, got: Any) -> None:
  if not condition:
    raise ValueError(f'{must}; got {got!r}')
