"""A local HTTP server that plays the Hugging Face hub: revisions, trees, files with ranges, refusals, cut bodies."""

import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse

COMMITS = {'main': 'a' * 40, 'older': 'b' * 40}


class Hub(http.server.ThreadingHTTPServer):
  """Serves one repository, org/tiny, from a folder.

  Attributes:
    folder: its files.
    requests: (method, path) of every request.
    refusal: (status, X-Error-Code) that every request gets; None: none.
    cut_after: bytes after which the body of the largest file breaks off, once for each entry of the list.
    damaged: name of a file whose body has a wrong byte.
    branch: the commit of main.
    answer: returns the body of every answer, or None after a while; None: answers as a hub.
  """

  daemon_threads = True

  def __init__(self, folder: pathlib.Path):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.folder, self.requests, self.refusal = folder, [], None
    self.cut_after, self.damaged, self.branch = [], None, COMMITS['main']
    self.answer = None

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'

  def bodies(self) -> list[str]:
    """The files whose bodies were requested."""
    return [
      path.rsplit('/', 1)[1]
      for method, path in self.requests
      if method == 'GET' and '/resolve/' in path
    ]

  def names(self) -> list[str]:
    return sorted(path.name for path in self.folder.iterdir())

  def content(self, name: str) -> bytes:
    return (self.folder / name).read_bytes()


def _etag(name: str, content: bytes) -> str:
  if name.endswith('.safetensors'):
    return hashlib.sha256(content).hexdigest()
  return hashlib.sha1(f'blob {len(content)}\0'.encode() + content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def do_GET(self):
    self._answer(with_body=True)

  def do_HEAD(self):
    self._answer(with_body=False)

  def _send(self, status, body=b'', with_body=True, **headers):
    self.send_response(status)
    for name, value in {'Content-Length': len(body), **headers}.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.end_headers()
    if with_body:
      self.wfile.write(body)

  def _refuse(self, status, code):
    self._send(status, b'{}', self.command == 'GET', X_Error_Code=code, X_Error_Message=code)

  def _answer(self, with_body):
    hub, path = self.server, urllib.parse.unquote(self.path.partition('?')[0])
    hub.requests.append((self.command, path))
    if hub.answer is not None:
      self._send(200, hub.answer() or b'', Content_Type='application/json')
    elif hub.refusal is not None:
      self._refuse(*hub.refusal)
    elif '/org/tiny' not in path:
      self._refuse(404, 'RepoNotFound')
    elif found := re.fullmatch(r'/api/models/org/tiny(/revision/(?P<revision>.+))?', path):
      self._info(found['revision'] or 'main')
    elif path.startswith('/api/models/org/tiny/tree/'):
      self._json([self._entry(name) for name in hub.names()])
    elif found := re.fullmatch(r'/org/tiny/resolve/(?P<commit>\w+)/(?P<name>[\w.-]+)', path):
      self._file(found['commit'], found['name'], with_body)
    else:
      self._refuse(404, 'EntryNotFound')

  def _json(self, value):
    self._send(200, json.dumps(value).encode(), Content_Type='application/json')

  def _info(self, revision):
    commits = COMMITS | {'main': self.server.branch}
    commit = commits.get(revision, revision if revision in commits.values() else None)
    if commit is None:
      self._refuse(404, 'RevisionNotFound')
      return
    names = [{'rfilename': name} for name in self.server.names()]
    self._json({'id': 'org/tiny', 'modelId': 'org/tiny', 'sha': commit, 'siblings': names})

  def _entry(self, name):
    content = self.server.content(name)
    entry = {'type': 'file', 'path': name, 'size': len(content), 'oid': 'c' * 40}
    if name.endswith('.safetensors'):
      sha256 = hashlib.sha256(content).hexdigest()
      entry['lfs'] = {'oid': sha256, 'size': len(content), 'pointerSize': 1}
    return entry

  def _file(self, commit, name, with_body):
    hub = self.server
    if name not in hub.names():
      self._refuse(404, 'EntryNotFound')
      return
    content = hub.content(name)
    headers = {
      'ETag': f'"{_etag(name, content)}"',
      'X_Repo_Commit': commit,
      'Accept_Ranges': 'bytes',
    }
    if name == hub.damaged:
      content = content[:-1] + bytes([content[-1] ^ 1])
    first = re.fullmatch(r'bytes=(\d+)-.*', self.headers.get('Range') or '')
    start = int(first[1]) if first else 0
    if first:
      headers['Content_Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
    body = content[start:]
    if with_body and name.endswith('.safetensors') and hub.cut_after:
      self.send_response(206 if first else 200)
      for key, value in {'Content-Length': len(body), **headers}.items():
        self.send_header(key.replace('_', '-'), str(value))
      self.end_headers()
      self.wfile.write(body[: hub.cut_after.pop(0)])
      self.close_connection = True
      return
    self._send(206 if first else 200, body, with_body, **headers)


@contextlib.contextmanager
def serving(folder: pathlib.Path):
  """Serves a folder while the block runs."""
  hub = Hub(folder)
  thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    hub.shutdown()
    hub.server_close()
    thread.join()
