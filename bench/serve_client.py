"""A small HTTP client for many connections in one process."""

import asyncio


class Client:
  """One keep-alive connection to a port of this machine, which is opened again when it is closed."""

  def __init__(self, port: int):
    self._port = port
    self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

  async def call(
    self, method: str, path: str, body: bytes = b'', headers: dict[str, str] | None = None
  ) -> tuple[int, dict[str, str], bytes]:
    """Sends a body and returns the status, the headers (names in lower case) and the body of the answer.

    Raises:
      OSError, asyncio.IncompleteReadError: the connection was closed before the end of the answer.
    """
    reader, _ = await self._send(method, path, body, headers)
    head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').split('\r\n')
    pairs = (line.split(': ', 1) for line in head[1:] if line)
    fields = {name.lower(): value for name, value in pairs}
    answer = await reader.readexactly(int(fields['content-length']))
    if fields.get('connection') == 'close':
      self.close()
    return int(head[0].split()[1]), fields, answer

  async def hang_up(self, path: str, body: bytes, seconds: float) -> None:
    """Posts a body and closes the connection after some seconds, without reading the answer."""
    _, writer = await self._send('POST', path, body, None)
    await asyncio.sleep(seconds)
    writer.transport.abort()
    self._streams = None

  def close(self) -> None:
    """Closes the connection."""
    if self._streams is not None:
      self._streams[1].close()
      self._streams = None

  async def _send(
    self, method: str, path: str, body: bytes, headers: dict[str, str] | None
  ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if self._streams is None:
      self._streams = await asyncio.open_connection('127.0.0.1', self._port)
    lines = [f'{method} {path} HTTP/1.1', 'Host: localhost', f'Content-Length: {len(body)}']
    lines += [f'{name}: {value}' for name, value in (headers or {}).items()]
    reader, writer = self._streams
    writer.write('\r\n'.join(lines).encode() + b'\r\n\r\n' + body)
    await writer.drain()
    return reader, writer
