"""A language model as the teacher, with a server that fails: 429, 500, truncated bodies, invalid answers."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_prep.keywords import endpoint, http_teacher
from data_prep.keywords.groups import groups
from recjax.schema.items import Keywords
from recjax.sids.table import SidTable
from tests.data_prep.keywords.chat_server import Failure, answer, completion, serve
from tests.folders import ROOT

KEY = 'sk-secret-1234'
NUM_ITEMS = 24


def catalogue():
  items = [
    {'id': f'i{n}', 'title': f'Soap {n} <b>', 'categories': [['Bath', f'c{n % 3}']], 'text': 'x'}
    for n in range(NUM_ITEMS)
  ]
  codes_IL = np.stack([np.arange(NUM_ITEMS) % 6, np.arange(NUM_ITEMS) // 6], axis=1)
  return items, groups(SidTable(codes_IL.astype(np.int32), (6, 4), 'x'))[:6]


def section(url, **fields):
  fields = {'requests_per_minute': 1e6, 'timeout': 5.0, 'items': 3, **fields}
  return Keywords(teacher='http', url=url, model='teacher-1', **fields)


def teach(url, journal, **fields):
  items, token_groups = catalogue()
  return http_teacher.entries(
    token_groups, items, section(url, **fields), journal, first_pause=0.002
  )


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', KEY)


def check(entries, token_groups, items):
  """Checks that the entries are the server's answers about three items of each group."""
  assert [entry['token'] for entry in entries] == [group.token for group in token_groups]
  for entry, group in zip(entries, token_groups, strict=True):
    assert len(entry['keywords']) == 3
    assert set(entry['keywords']) <= {items[i]['title'] for i in group.items}
    assert entry['description'] == f'Items such as {entry["keywords"][0]}.'


def test_every_question_is_asked_once_after_the_cost_is_printed(tmp_path, capsys):
  items, token_groups = catalogue()
  prices = {'price_input': 1000.0, 'price_output': 20_000.0}
  with serve() as server:
    entries = teach(server.url, tmp_path / 'journal', **prices)
    first, last = capsys.readouterr().out.splitlines()
    assert teach(server.url, tmp_path / 'journal', **prices) == entries
    assert len(server.requests) == 6
  check(entries, token_groups, items)
  assert server.paths == ['/v1/chat/completions'] * 6
  assert {headers['Authorization'] for headers in server.headers} == {f'Bearer {KEY}'}
  request = server.requests[0]
  assert (request['model'], request['temperature']) == ('teacher-1', 0.0)
  assert [message['role'] for message in request['messages']] == ['system', 'user']
  assert '(Bath > c' in server.questions[0]
  characters = sum(len(json.dumps(r['messages'], ensure_ascii=False)) for r in server.requests)
  tokens_in, tokens_out = characters // 4, 6 * (130 + 5 * 20)
  assert first.startswith('keywords: 6 requests to teacher-1 at http://127.0.0.1')
  assert f'about {tokens_in:,} input and {tokens_out:,} output tokens' in first
  assert f'{tokens_in / 1000 + tokens_out / 50:.2f} at 1000 and 20000 a million' in first
  assert last == (
    'keywords: 600 input and 60 output tokens used: 1.80 at 1000 and 20000 a million tokens of input '
    'and output'
  )
  assert capsys.readouterr().out == ''  # the second time nothing is asked, and no key is needed
  assert KEY not in (tmp_path / 'journal').read_text() + first + last


def test_no_key_is_needed_if_all_questions_are_answered(tmp_path, monkeypatch, capsys):
  with serve() as server:
    entries = teach(server.url, tmp_path / 'journal')
  monkeypatch.delenv('OPENAI_API_KEY')
  assert teach(server.url, tmp_path / 'journal') == entries


GOOD = completion(json.dumps({'keywords': ['a'], 'description': 'b.'}))


@pytest.mark.parametrize(
  'failure',
  [
    Failure(status=429, body='{"error": "slow down"}'),
    Failure(status=429, headers={'Retry-After': '0.01'}),
    Failure(status=429, headers={'Retry-After': 'Wed, 21 Oct 2015 07:28:00 GMT'}),
    Failure(status=429, headers={'Retry-After': 'soon'}),
    Failure(status=500, body='oops'),
    Failure(status=503, body='x', announced=10),
    Failure(body=GOOD[:40], announced=len(GOOD)),
    Failure(body=GOOD[:40]),
    Failure(status=0),
    Failure(body='<html>busy</html>'),
    Failure(body='{"error": "no choices"}'),
    Failure(body='[]'),
    Failure(body=completion(None)),
    Failure(body=completion('I am sorry.')),
    Failure(body=completion('{"keywords": ["a"]}')),
    Failure(body=completion('{"keywords": "a", "description": "b"}')),
    Failure(body=completion('{"keywords": [1], "description": "b"}')),
    Failure(body=completion('{"keywords": [], "description": "b"}')),
    Failure(body=completion('{"keywords": [" "], "description": "b"}')),
    Failure(body=completion('{"keywords": ["a"], "description": "  "}')),
    Failure(body=completion('{"keywords": ["a"], "description": ["b"]}')),
    Failure(body=completion(json.dumps({'keywords': ['a' * 101], 'description': 'b'}))),
  ],
)
def test_transient_failures_are_retried(tmp_path, failure, capsys):
  items, token_groups = catalogue()
  with serve(failure, failure) as server:
    entries = teach(server.url, tmp_path / 'journal')
    assert len(server.requests) == 6 + 2
  check(entries, token_groups, items)
  assert len((tmp_path / 'journal').read_text().splitlines()) == 6
  # After an invalid answer the temperature changes.
  is_nonsense = failure.status == 200 and '"message": {"content": "' in failure.body
  is_nonsense &= failure.announced is None and len(failure.body) > 40
  temperatures = sorted(request['temperature'] for request in server.requests)
  assert temperatures[:6] == [0.0] * 6
  assert set(temperatures[6:]) == {0.5 if is_nonsense else 0.0}


def test_text_around_the_json_answer_is_ignored(tmp_path, capsys):
  content = (
    'Sure:\n```json\n{"keywords": [" red\\n soap ", "red soap"], "description": " A  b. "}\n```'
  )
  with serve(*[Failure(body=completion(content))] * 6) as server:
    entries = teach(server.url, tmp_path / 'journal')
  assert {tuple(entry['keywords']) for entry in entries} == {('red soap',)}
  assert {entry['description'] for entry in entries} == {'A b.'}


def test_an_answer_that_times_out_is_retried(tmp_path, capsys):
  with serve() as server:
    server.answers_before_hold = 2
    with pytest.raises(ConnectionError, match=r'timed out.*\(2 attempts\)'):
      teach(server.url, tmp_path / 'journal', timeout=0.2, max_retries=1)
    server.answers_before_hold = None
    teach(server.url, tmp_path / 'journal')
  assert len((tmp_path / 'journal').read_text().splitlines()) == 6


def test_retry_after_pauses_all_threads(tmp_path, capsys):
  with serve(Failure(status=429, headers={'Retry-After': '0.4'})) as server:
    started = time.monotonic()
    teach(server.url, tmp_path / 'journal')
    assert time.monotonic() - started >= 0.4
    assert len(server.requests) == 7


def test_the_rate_limit_is_kept(tmp_path, capsys):
  with serve() as server:
    started = time.monotonic()
    teach(server.url, tmp_path / 'journal', requests_per_minute=600)
    assert time.monotonic() - started >= 5 * 0.1
    assert len(server.requests) == 6


def test_answers_are_kept_when_a_question_finally_fails(tmp_path, capsys):
  items, token_groups = catalogue()
  with serve() as server:
    server.answers_before_hold = 3
    server.hold.set()  # from then on connections are closed
    with pytest.raises(
      ConnectionError,
      match=r'no answer about <a_\d>: .*\(3 attempts\)\. 3 of 6 requests are answered and stored in '
      r'.*journal. Run the same command again',
    ):
      teach(server.url, tmp_path / 'journal', max_retries=2)
    before = len(server.requests)
    server.answers_before_hold = None
    entries = teach(server.url, tmp_path / 'journal')
    assert len(server.requests) == before + 3
  check(entries, token_groups, items)
  with (
    serve(*[Failure(status=429, headers={'Retry-After': '7200'})] * 20) as server,
    pytest.raises(ConnectionError, match=r'HTTP 429.*asks for a pause of 7,200 s \(1 attempts\)'),
  ):
    teach(server.url, tmp_path / 'other')


def test_a_server_that_does_not_listen_is_a_connection_error(tmp_path, capsys):
  with serve() as server:
    url = server.url
  with pytest.raises(ConnectionError, match=r'0 of 6 requests are answered'):
    teach(url, tmp_path / 'journal', max_retries=1)
  assert not (tmp_path / 'journal').exists()


@pytest.mark.parametrize(
  ('failure', 'message'),
  [
    (Failure(status=401, body=f'bad key {KEY}'), r'HTTP 401 .*bad key \*\*\*\..*api_key_variable'),
    (Failure(status=403), r'HTTP 403'),
    (Failure(status=404, body='no such model'), r'no such model\. Check --config\.keywords\.url'),
    (Failure(status=400, body='too long'), r'HTTP 400 Bad Request too long'),
    (Failure(status=302, headers={'Location': 'http://127.0.0.1:9/'}), r'HTTP 302'),
  ],
)
def test_permanent_failures_are_not_retried(tmp_path, failure, message, capsys):
  with serve(*[failure] * 20) as server:
    with pytest.raises(ValueError, match=message) as error:
      teach(server.url, tmp_path / 'journal')
    assert len(server.requests) <= 4  # one a thread
  assert KEY not in str(error.value)


def test_a_model_that_rejects_a_temperature_is_asked_without_one(tmp_path, capsys):
  failure = Failure(status=400, body='{"error": "Unsupported value: temperature"}')
  with serve(failure) as server:
    teach(server.url, tmp_path / 'journal')
    assert 'temperature' in server.requests[0]
    assert 'temperature' not in server.requests[-1]


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (None, r'OPENAI_API_KEY must hold the key of http.*it is not set'),
    ('two words', 'one word'),
    ('sk-é', 'one word'),
  ],
)
def test_missing_and_invalid_keys_are_rejected(tmp_path, monkeypatch, value, message):
  if value is None:
    monkeypatch.delenv('OPENAI_API_KEY')
  else:
    monkeypatch.setenv('OPENAI_API_KEY', value)
  with serve() as server:
    with pytest.raises(ValueError, match=message) as error:
      teach(server.url, tmp_path / 'journal')
    assert value is None or value not in str(error.value)
    assert not server.requests


def test_an_empty_key_is_not_sent_and_white_space_is_stripped(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('MY_KEY', '')
  with serve() as server:
    teach(server.url, tmp_path / 'journal', api_key_variable='MY_KEY')
    assert not any('Authorization' in headers for headers in server.headers)
    monkeypatch.setenv('MY_KEY', 'abc\r\n')
    teach(server.url, tmp_path / 'other', api_key_variable='MY_KEY')
    assert server.headers[-1]['Authorization'] == 'Bearer abc'


def test_no_proxy_is_used_for_localhost(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
  monkeypatch.setenv('no_proxy', '')
  with serve() as server:
    teach(server.url, tmp_path / 'journal')
    assert len(server.requests) == 6


def test_new_items_change_few_questions():
  items, token_groups = catalogue()
  before = [http_teacher._chat(group, items, section('http://x')) for group in token_groups]
  items[token_groups[2].items[0]]['title'] = 'Another'
  after = [http_teacher._chat(group, items, section('http://x', items=4)) for group in token_groups]
  assert [a == b for a, b in zip(before, after, strict=True)] == [False] * 6
  after = [http_teacher._chat(group, items, section('http://y')) for group in token_groups]
  changed = [a != b for a, b in zip(before, after, strict=True)]
  assert sum(changed) <= 1 and not any(changed[:2] + changed[3:])


def test_retry_after_is_read_in_seconds_or_as_a_date():
  assert endpoint._retry_after('12') == 12.0
  assert endpoint._retry_after('-3') == 0.0
  assert endpoint._retry_after(None) is None
  assert endpoint._retry_after('soon') is None
  assert endpoint._retry_after('Wed, 21 Oct 2015 07:28:00 GMT') == 0.0
  later = time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(time.time() + 100))
  assert 95 < endpoint._retry_after(later) <= 100


ASKING = """
import pathlib, sys
from tests.data_prep.keywords import http_teacher_test
http_teacher_test.teach(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_kill_loses_no_stored_answer(tmp_path, capsys):
  items, token_groups = catalogue()
  journal = tmp_path / 'journal'
  with serve() as server:
    server.answers_before_hold = 4
    process = subprocess.Popen(
      [sys.executable, '-c', ASKING, server.url, journal], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    # Four answers are in the journal; the server holds the other two questions.
    while not journal.exists() or journal.read_bytes().count(b'\n') < 4 or len(server.requests) < 6:
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with journal.open('ab') as f:
      f.write(b'{"question": "torn')
    server.answers_before_hold = None
    paid = server.questions[:4]
    entries = teach(server.url, journal)
    again = server.questions[6:]
  check(entries, token_groups, items)
  assert len(again) == 2 and not set(again) & set(paid)
  lines = [json.loads(line) for line in journal.read_text().splitlines()]
  assert len(lines) == 6
  assert {line['description'] for line in lines} == {
    answer(question)['description'] for question in paid + again
  }


def test_a_damaged_journal_is_an_error_and_is_not_changed(tmp_path, capsys):
  journal = tmp_path / 'journal'
  with serve() as server:
    teach(server.url, journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(''.join([*lines[:2], 'not JSON\n', *lines[3:]]))
    before = journal.read_bytes()
    with pytest.raises(ValueError, match=r'journal:3 must be an answer.*Remove that line'):
      teach(server.url, journal)
    assert journal.read_bytes() == before
    journal.write_text(''.join([*lines[:2], *lines[3:]]))
    teach(server.url, journal)
    assert len(server.requests) == 7
