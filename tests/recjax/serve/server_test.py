"""The service over real sockets, with an engine that needs no model: limits, clients that die, drain."""

import asyncio
import json
import threading
import time

import pytest

from bench.serve_client import Client
from tests.recjax.serve.services import Engine, with_service


def test_one_request_or_a_list_is_answered():
  async def test(service):
    status, _, answer = await service.ask('a')
    assert (status, answer) == (200, {'item': 'a', 'catalogue': 'v1'})
    status, _, answers = await service.ask('a', 'b', 'c', 'd', 'e')
    assert [each['item'] for each in answers] == list('abcde')
    assert await service.metric('recjax_requests_total') == 6
    assert await service.metric('recjax_calls_total{endpoint="/recommend",status="200"}') == 2
    assert await service.metric('recjax_catalogue{version="v1"}') == 1

  with_service(test)


def test_the_other_endpoints():
  async def test(service):
    for path in ('/healthz', '/readyz', '/catalogue', '/', '/page.js', '/page.css'):
      status, headers, _ = await service.call('GET', path)
      assert status == 200, path
      assert ('content-security-policy' in headers) == (path in ('/', '/page.js', '/page.css'))
    _, _, answer = await service.call('GET', '/items?q=%3Ca%3E%20b&limit=7')
    assert answer == {'items': [{'item': '<a> b', 'title': '<b>7</b>'}]}
    _, _, answer = await service.call('GET', f'/items?q=a&limit={"0" * 5000}7')
    assert answer['items'][0]['title'] == '<b>7</b>'
    wrong = ('000010999999', '000001' + '0' * 5000, '0' * 9, '')
    for limit in ('0', '101', '-1', 'x', '1e2', '%C2%B2', '9' * 5000, *wrong):
      status, _, answer = await service.call('GET', f'/items?limit={limit}')
      assert status == 400 and 'limit must be from 1 to 100' in answer['error']
    status, _, answer = await service.call('GET', '/nothing')
    assert status == 404 and '/recommend' in answer['error']
    status, headers, answer = await service.call('GET', '/recommend')
    assert status == 405 and headers['allow'] == 'POST' and 'error' in answer

  with_service(test)


def test_wrong_requests_and_bugs_harm_no_other(caplog):
  async def test(service):
    service.engine.gate.clear()
    first = service.ask('a')
    await service.until_started()
    calls = [service.ask('b'), service.ask('bad'), service.ask('c'), service.ask('bug')]
    await asyncio.sleep(0.1)
    service.engine.gate.set()
    found = [await call for call in (first, *calls)]
    assert [status for status, _, _ in found] == [200, 200, 400, 200, 500]
    assert found[2][2] == {'error': 'no such item', 'unknown': ['bad']}
    assert found[4][2] == {'error': 'the service failed; its log has the reason'}
    status, _, answer = await service.call('POST', '/recommend', b'{"history"')
    assert status == 400 and 'must be JSON' in answer['error']
    assert (await service.ask('d'))[0] == 200

  with_service(test)


def test_a_body_of_10_mb_is_refused_with_a_message():
  async def test(service):
    body = b'{"history": [' + b' ' * 10_000_000 + b']}'
    status, headers, answer = await service.call('POST', '/recommend', body)
    assert status == 413 and headers['connection'] == 'close'
    size = str(len(body))
    assert (
      answer['error'] == f'the body must have at most 1,000,000 bytes (--max_body_mb); got {size}'
    )
    assert (await service.ask('a'))[0] == 200

  with_service(test)


def test_a_full_queue_answers_429_and_a_late_answer_504():
  async def test(service):
    service.engine.gate.clear()
    start = time.perf_counter()
    first = service.ask('a')
    await service.until_started()
    waiting = service.ask('b', 'c', 'd')
    await asyncio.sleep(0.1)
    status, headers, answer = await service.ask('e')
    assert status == 429 and int(headers['retry-after']) >= 1
    assert 'at most 3 requests may wait' in answer['error']
    status, _, answer = await service.ask('f', 'g', 'h', 'i')  # could never wait
    assert status == 400 and 'a list of 1 to 3' in answer['error']
    for call in (first, waiting):
      status, _, answer = await call
      assert status == 504 and 'no answer within 0.6 s' in answer['error']
    assert 0.5 < time.perf_counter() - start < 5
    service.engine.gate.set()
    assert (await service.ask('j'))[0] == 200
    assert ['b', 'c', 'd'] not in service.engine.waves  # they had left the queue

  with_service(test, max_queue=3, timeout_s=0.6)


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch, caplog):
  async def test(service):
    reader, writer = await asyncio.open_connection('127.0.0.1', service.port)
    writer.write(b'POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"hist')
    answer = await reader.read()
    assert b' 408 ' in answer and b'the body must arrive within 0.3 s' in answer
    writer.close()
    reader, writer = await asyncio.open_connection('127.0.0.1', service.port)
    head = b'POST /catalogue HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\n'
    writer.write(head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"swa')
    assert b' 408 ' in await reader.read()
    writer.close()
    writer = (await asyncio.open_connection('127.0.0.1', service.port))[1]
    writer.write(head + b'Content-Length: 99\r\n\r\n{')
    await writer.drain()
    writer.close()
    while not await service.metric('recjax_disconnects_total'):
      await asyncio.sleep(0.01)
    assert not caplog.records

  monkeypatch.setenv('RECJAX_SERVE_TOKEN', 'secret')
  with_service(test, timeout_s=0.3)


def test_a_client_that_dies_leaves_its_wave_unharmed():
  async def test(service):
    service.engine.gate.clear()
    body = json.dumps({'history': ['dead']}).encode()
    searched = asyncio.create_task(Client(service.port).hang_up('/recommend', body, 0.1))
    await service.until_started()  # its wave is searched
    queued = Client(service.port).hang_up('/recommend', body, 0.1)
    lives = service.ask('a'), service.ask('b')
    await asyncio.gather(searched, queued)
    while await service.metric('recjax_disconnects_total') < 2:
      await asyncio.sleep(0.01)
    assert await service.metric('recjax_queue_requests') == 2
    service.engine.gate.set()
    assert [(await call)[0] for call in lives] == [200, 200]
    assert service.engine.waves[0] == ['dead'] and sorted(service.engine.waves[1]) == ['a', 'b']

  with_service(test)


def test_a_service_that_ends_answers_what_it_took_and_refuses_the_rest():
  async def test(service):
    service.engine.gate.clear()
    kept = Client(service.port)
    await kept.call('GET', '/healthz')
    first = service.ask('a')
    await service.until_started()
    queued = service.ask('b')
    await asyncio.sleep(0.1)
    service.stop.set()
    await asyncio.sleep(0.1)
    status, headers, answer = await service.ask('c')
    assert (status, headers['connection']) == (503, 'close') and 'is ending' in answer['error']
    assert (await kept.call('POST', '/recommend', b'{"history": ["d"]}'))[0] == 503
    assert (await service.call('GET', '/readyz'))[0] == 503
    assert (await service.call('GET', '/healthz'))[0] == 200
    assert not service.task.done()
    service.engine.gate.set()
    assert [(await call)[0] for call in (first, queued)] == [200, 200]
    await service.task
    with pytest.raises(OSError):
      await Client(service.port).call('GET', '/healthz')

  with_service(test)


def test_a_service_that_loads_is_alive_but_not_ready():
  gate, engine = threading.Event(), Engine()

  def load():
    assert gate.wait(20)
    return engine

  async def test(service):
    assert (await service.call('GET', '/healthz'))[0] == 200
    for method, path in (('GET', '/readyz'), ('POST', '/recommend'), ('GET', '/items')):
      status, headers, answer = await service.call(method, path)
      assert status == 503 and 'loading' in answer['error'] and headers['retry-after']
    gate.set()
    while (await service.call('GET', '/readyz'))[0] != 200:
      await asyncio.sleep(0.01)
    assert (await service.ask('a'))[0] == 200

  with_service(test, load)


def test_an_error_of_the_loading_ends_the_service():
  def load():
    raise ValueError('no checkpoint')

  async def test(service):
    with pytest.raises(ValueError, match='no checkpoint'):
      await service.task

  with pytest.raises(ValueError, match='no checkpoint'):
    with_service(test, load)


def test_a_change_of_the_catalogue_needs_the_token(monkeypatch):
  async def test(service):
    monkeypatch.delenv('RECJAX_SERVE_TOKEN', raising=False)
    status, _, answer = await service.call('POST', '/catalogue', {})
    assert status == 403 and 'RECJAX_SERVE_TOKEN' in answer['error']
    monkeypatch.setenv('RECJAX_SERVE_TOKEN', 'geheim-ü\n')  # of a file, with its last line break
    for given in (None, 'Bearer wrong', 'Basic geheim-ü', 'Bearer', 'Bearer '):
      headers = {'Authorization': given} if given else None
      status, headers, answer = await service.call('POST', '/catalogue', {}, headers)
      assert status == 401 and headers['www-authenticate'] == 'Bearer'
    assert service.engine.view.version == 'v1'
    body = b'POST /catalogue HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 14\r\n'
    body += 'Authorization: Bearer geheim-ü\r\n\r\n{"swap": "v2"}'.encode()  # as curl sends it
    reader, writer = await asyncio.open_connection('127.0.0.1', service.port)
    writer.write(body)
    assert b' 200 ' in await reader.readline() and service.engine.view.version == 'v2'
    writer.close()

  with_service(test)


def test_the_catalogue_is_swapped_and_rolled_back(monkeypatch):
  async def test(service):
    monkeypatch.setenv('RECJAX_SERVE_TOKEN', 'secret')
    headers = {'Authorization': 'Bearer secret'}

    async def change(body):
      status, _, answer = await service.call('POST', '/catalogue', body, headers)
      return status, answer

    assert await change({'swap': 'v2'}) == (200, {'catalogue': 'v2'})
    assert (await service.ask('a'))[2]['catalogue'] == 'v2'
    assert await service.metric('recjax_catalogue{version="v2"}') == 1
    assert await service.metric('recjax_catalogue{version="v1"}') == 0
    assert await change({'roll_back': True}) == (200, {'catalogue': 'v1'})
    assert await change({'swap': 'nowhere'}) == (400, {'error': 'nowhere is no catalogue'})
    for body in (
      b'{',
      [],
      {},
      {'roll_back': False},
      {'swap': 3},
      {'swap': ''},
      {'swap': 'a', 'b': 'c'},
    ):
      status, answer = await change(body)
      assert status == 400 and 'the body must be' in answer['error']
    assert (await service.ask('a'))[2]['catalogue'] == 'v1'

  with_service(test)


def test_a_swap_waits_for_the_wave_that_is_searched(monkeypatch):
  async def test(service):
    monkeypatch.setenv('RECJAX_SERVE_TOKEN', 'secret')
    service.engine.gate.clear()
    first = service.ask('a')
    await service.until_started()
    headers = {'Authorization': 'Bearer secret'}
    change = asyncio.create_task(service.call('POST', '/catalogue', {'swap': 'v2'}, headers))
    await asyncio.sleep(0.1)
    assert not change.done() and (await service.call('GET', '/catalogue'))[2]['catalogue'] == 'v1'
    later = service.ask('b')
    service.engine.gate.set()
    assert [(await call)[2]['catalogue'] for call in (first, change, later)] == ['v1', 'v2', 'v2']

  with_service(test)


def test_a_list_that_spans_a_swap_is_answered_from_one_catalogue(monkeypatch):
  async def test(service):
    monkeypatch.setenv('RECJAX_SERVE_TOKEN', 'secret')
    service.engine.gate.clear()
    call = service.ask(*'abcdef')  # two waves of at most four
    await service.until_started()
    headers = {'Authorization': 'Bearer secret'}
    change = asyncio.create_task(service.call('POST', '/catalogue', {'swap': 'v2'}, headers))
    await asyncio.sleep(0.1)
    service.engine.gate.set()
    await change
    answers = (await call)[2]
    assert [each['item'] for each in answers] == list('abcdef')
    assert {each['catalogue'] for each in answers} == {'v2'}
    assert service.engine.waves == [list('abcd'), list('ef')] * 2

  with_service(test)
