"""The page of the service: one HTML file, its script and its style, without a network."""

import functools

from etils import epath
from starlette.responses import Response

FILES = {'page.js': 'text/javascript', 'page.css': 'text/css'}
_HEADERS = {
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-cache',
}


def response(name: str) -> Response:
  """Returns a file of the page; an empty name is the page itself."""
  return Response(_content(name), 200, _HEADERS, FILES.get(name, 'text/html'))


@functools.cache
def _content(name: str) -> str:
  text = _read('serve', name or 'page.html')
  if name == 'page.css':
    return f'{_read("report", name)}\n{text}'  # the colours and tables of the report
  return text


def _read(package: str, name: str) -> str:
  folder = epath.resource_path(f'recjax.{package}') / 'templates'
  return (folder / name).read_text(encoding='utf-8')
