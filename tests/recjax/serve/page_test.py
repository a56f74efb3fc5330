"""The page in a headless browser, with titles that hold HTML."""

import asyncio
import html
import os
import re
import shutil

import pytest

from recjax.serve.wire import Limits
from tests.recjax.serve.services import Engine, with_service

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
ATTACK = '<img src=x onerror="document.body.dataset.hacked=1"><b>bold</b> & "quoted"'


class Shop(Engine):
  """Two items with dangerous titles; every request is kept."""

  items = ({'item': 'a,b/<i>', 'title': ATTACK}, {'item': 'plain', 'title': None})

  def __init__(self):
    super().__init__()
    self.requests = []
    self.view.search = lambda text, limit: [each for each in self.items if each['item'] == text]

  def limits(self, requests):
    return Limits((20, 50), requests, 100, 10, 2)

  def answer(self, queries):
    self.requests += [query.request for query in queries]
    code = {'code': '<a_3>', 'keywords': ['soap', '<script>alert(1)</script>']}
    found = [
      {**each, 'score': -n - 0.25, 'sid': [code, {'code': '<b_0>', 'keywords': []}]}
      for n, each in enumerate(self.items)
    ]
    answer = {'recommendations': found, 'one_hop': [self.items[0]], 'note': ATTACK}
    answer['unknown'] = ['<i>gone%</i>']
    return [answer | {'catalogue': 'v1'} for _ in queries]

  def describe(self):
    names = ['in_stock', 'constructor', ATTACK]
    return {'catalogue': 'v1', 'items': 1234, 'masks': names, 'beams': [20, 50], 'step': 7}


async def document(url, folder):
  """Returns the document of a page after its script has run, as HTML."""
  options = ('--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=4000')
  process = await asyncio.create_subprocess_exec(
    *(BROWSER, *options, f'--user-data-dir={folder}', '--dump-dom', url),
    stdout=asyncio.subprocess.PIPE,
    stderr=asyncio.subprocess.DEVNULL,
    env=os.environ | {'HOME': str(folder)},
  )
  out, _ = await process.communicate()
  return out.decode()


def texts(dom, tag):
  """Returns the texts of the elements of a tag."""
  found = re.findall(rf'<{tag}\b[^>]*>(.*?)</{tag}>', dom, re.S)
  return [html.unescape(re.sub('<[^>]*>', '', each)) for each in found]


@pytest.mark.skipif(BROWSER is None, reason=f'the page needs a browser: {", ".join(BROWSERS)}')
def test_texts_are_shown_as_they_are_and_the_address_sets_the_question(tmp_path):
  shop = Shop()

  async def test(service):
    state = 'history=a%2Cb%2F%3Ci%3E,gone%&k=2&beams=50&only=in_stock'
    dom = await document(f'http://127.0.0.1:{service.port}/#{state}', tmp_path)
    assert '<img' not in dom and 'data-hacked' not in dom and '<script>alert' not in dom
    request = shop.requests[0]
    assert request.history == ['a,b/<i>', 'gone%'] and request.within == 'in_stock'
    assert (request.k, request.beams) == (2, 50)
    assert texts(dom, 'li')[:2] == [f'{ATTACK}a,b/<i>×', 'gone%×']
    model, counting = texts(dom, 'tbody')
    path = '<a_3> soap, <script>alert(1)</script><b_0>'
    assert model == f'1{ATTACK}a,b/<i>{path}-0.2502plain{path}-1.250'
    assert counting == f'1{ATTACK}a,b/<i>'
    buttons = texts(dom, 'button')
    assert {'only in_stock', 'constructor', ATTACK} <= set(buttons)
    assert texts(dom, 'p')[0] == '1,234 items, catalogue v1, step 7'
    note = f'{ATTACK} · not in the catalogue: <i>gone%</i> · '
    assert any(text.startswith(note) for text in texts(dom, 'p'))
    assert not re.search(r'(src|href)="(?!page\.|data:,)', dom)  # needs no network

  with_service(test, lambda: shop)
