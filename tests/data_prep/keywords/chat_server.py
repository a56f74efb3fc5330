"""A local chat endpoint that can fail like real endpoints."""

import contextlib
import dataclasses
import http.server
import json
import re
import threading


@dataclasses.dataclass
class Failure:
  """One failure: an HTTP status, a truncated body, an invalid text, or no answer.

  Attributes:
    status: HTTP status of the response; 0: the connection is closed without a response.
    body: body of the response.
    announced: Content-Length of the response; None: the length of the body.
    headers: additional headers.
  """

  status: int = 200
  body: str = ''
  announced: int | None = None
  headers: dict[str, str] = dataclasses.field(default_factory=dict)


def completion(content):
  """Returns the body of a response with this text of the model."""
  usage = {'prompt_tokens': 100, 'completion_tokens': 10}
  return json.dumps({'choices': [{'message': {'content': content}}], 'usage': usage})


def titles(question):
  """Returns the titles in a question."""
  return re.findall(r'^- (.*?)(?: \(.*\))?$', question, re.MULTILINE)


def answer(question):
  """Returns the answer of the server to a question: its titles as keywords."""
  seen = titles(question)
  return {'keywords': seen, 'description': f'Items such as {seen[0]}.'}


@dataclasses.dataclass
class Server:
  """Records the requests in order. The first responses are the failures, one per request.

  Attributes:
    url: address of the endpoint.
    requests: bodies of the requests.
    headers: headers of the requests.
    paths: paths of the requests.
    failures: the remaining failures.
    hold: an event; until it is set, the server sends only the first `answers_before_hold` answers.
  """

  url: str = ''
  requests: list[dict] = dataclasses.field(default_factory=list)
  headers: list[dict] = dataclasses.field(default_factory=list)
  paths: list[str] = dataclasses.field(default_factory=list)
  failures: list[Failure] = dataclasses.field(default_factory=list)
  answers_before_hold: int | None = None
  hold: threading.Event = dataclasses.field(default_factory=threading.Event)
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  @property
  def questions(self):
    return [request['messages'][-1]['content'] for request in self.requests]


@contextlib.contextmanager
def serve(*failures):
  state = Server(failures=list(failures))

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      with state.lock:
        state.requests.append(request)
        state.headers.append(dict(self.headers))
        state.paths.append(self.path)
        failure = state.failures.pop(0) if state.failures else None
        held = state.answers_before_hold is not None
        held = held and len(state.requests) > state.answers_before_hold
      if held:
        state.hold.wait(30)
        return
      question = request['messages'][-1]['content']
      failure = failure or Failure(body=completion(json.dumps(answer(question))))
      if not failure.status:
        return
      body = failure.body.encode()
      self.send_response(failure.status)
      for name, value in failure.headers.items():
        self.send_header(name, value)
      length = len(body) if failure.announced is None else failure.announced
      self.send_header('Content-Length', str(length))
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *args):
      """Suppresses the request log."""

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    state.url = f'http://127.0.0.1:{server.server_port}/v1'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
      yield state
    finally:
      state.hold.set()
      server.shutdown()
      thread.join()
