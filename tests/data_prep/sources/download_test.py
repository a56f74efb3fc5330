"""Downloads from a local server that cuts connections, sends wrong sizes and ignores ranges."""

import contextlib
import http.server
import io
import re
import threading
import zipfile

from etils import epath
import numpy as np
import pytest

from data_prep import sources
from data_prep.sources import download, raw_files

CONTENT = np.random.default_rng(0).bytes(300_000)


@contextlib.contextmanager
def serve(files, *, cut_at=None, ranges=True, length=True, extra=0, errors=()):
  """Serves `files`; every connection sends at most `cut_at` bytes; `errors` come first."""
  requests, errors = [], list(errors)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked = self.headers.get('Range')
      requests.append((self.path, asked))
      content = files.get(self.path.lstrip('/'))
      if errors or content is None:
        self.send_error(errors.pop(0) if errors else 404)
        return
      start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1]) if asked and ranges else 0
      if start >= len(content):
        self.send_response(416)
        self.send_header('Content-Range', f'bytes */{len(content)}')
        self.send_header('Content-Length', '0')
        self.end_headers()
        return
      self.send_response(206 if asked and ranges else 200)
      if length:
        self.send_header('Content-Length', str(len(content) - start + extra))
      self.end_headers()
      self.wfile.write(content[start:][:cut_at])

    def log_message(self, *args):
      """Suppresses the request log."""

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
      yield f'http://127.0.0.1:{server.server_port}', requests
    finally:
      server.shutdown()
      thread.join()


def fetch(url, path, **kwargs):
  download.fetch(f'{url}/f', path, pause_s=0, timeout_s=5, **kwargs)


def test_a_file_is_fetched_once_and_no_part_remains(tmp_path):
  with serve({'f': CONTENT}) as (url, requests):
    for _ in range(2):
      fetch(url, tmp_path / 'sub' / 'f')
  assert requests == [('/f', None)]
  assert [p.name for p in (tmp_path / 'sub').iterdir()] == ['f']
  assert (tmp_path / 'sub' / 'f').read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(tmp_path):
  with serve({'f': CONTENT}, cut_at=90_000) as (url, requests):
    fetch(url, tmp_path / 'f', attempts=2)
  assert [asked for _, asked in requests] == [
    None, 'bytes=90000-', 'bytes=180000-', 'bytes=270000-',
  ]  # fmt: skip
  assert (tmp_path / 'f').read_bytes() == CONTENT


def test_the_part_of_an_earlier_run_is_resumed(tmp_path):
  (tmp_path / 'f.part').write_bytes(CONTENT[:123_456])
  with serve({'f': CONTENT}) as (url, requests):
    fetch(url, tmp_path / 'f')
  assert requests == [('/f', 'bytes=123456-')]
  assert (tmp_path / 'f').read_bytes() == CONTENT


@pytest.mark.parametrize('part', [CONTENT[:1000], CONTENT[::-1][:2000], CONTENT + b'x'])
def test_a_server_without_ranges_restarts_the_download(tmp_path, part):
  (tmp_path / 'f.part').write_bytes(part)
  with serve({'f': CONTENT}, ranges=False) as (url, _):
    fetch(url, tmp_path / 'f')
  assert (tmp_path / 'f').read_bytes() == CONTENT


def test_a_complete_part_is_renamed_and_a_longer_one_removed(tmp_path):
  (tmp_path / 'f.part').write_bytes(CONTENT)
  with serve({'f': CONTENT}) as (url, requests):
    fetch(url, tmp_path / 'f')
    assert (tmp_path / 'f').read_bytes() == CONTENT
    (tmp_path / 'f').unlink()
    (tmp_path / 'f.part').write_bytes(CONTENT + b'of another file')
    fetch(url, tmp_path / 'f')
  assert (tmp_path / 'f').read_bytes() == CONTENT
  assert [asked for _, asked in requests] == ['bytes=300000-', 'bytes=300015-', None]


def test_a_wrong_size_is_an_error_that_keeps_the_part(tmp_path):
  with (
    serve({'f': CONTENT}, extra=7, ranges=False) as (url, requests),
    pytest.raises(ConnectionError, match=r'3 attempts .*f\.part: run the same command again'),
  ):
    fetch(url, tmp_path / 'f', attempts=3)
  assert len(requests) == 3
  assert [p.name for p in tmp_path.iterdir()] == ['f.part']


def test_a_missing_file_is_not_retried(tmp_path):
  with (
    serve({}) as (url, requests),
    pytest.raises(FileNotFoundError, match=r'/f cannot be fetched: HTTP 404'),
  ):
    fetch(url, tmp_path / 'f')
  assert len(requests) == 1
  assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_retried(tmp_path):
  with serve({'f': CONTENT}, errors=(503, 429)) as (url, requests):
    fetch(url, tmp_path / 'f')
  assert len(requests) == 3
  assert (tmp_path / 'f').read_bytes() == CONTENT


def test_a_server_without_content_length_is_rejected(tmp_path):
  with (
    serve({'f': CONTENT}, length=False) as (url, _),
    pytest.raises(ValueError, match='Content-Length'),
  ):
    fetch(url, tmp_path / 'f')
  assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_listen_is_a_connection_error(tmp_path):
  with serve({}) as (url, _):
    pass
  with pytest.raises(ConnectionError, match='could not be fetched in 2 attempts'):
    fetch(url, tmp_path / 'f', attempts=2)


def test_amazon_fetches_only_missing_files(tmp_path):
  files = {'reviews_X_5.json.gz': CONTENT[:1000], 'meta_X.json.gz': CONTENT[1000:]}
  (tmp_path / 'meta_X.json').write_bytes(b'')
  source = sources.get('amazon2014')
  with serve(files) as (url, requests):
    data = sources.get('amazon2014')(
      source='amazon2014', name='x', category='X', download=True, download_url=f'{url}/'
    )
    source.fetch(data, tmp_path)
    assert [path for path, _ in requests] == ['/reviews_X_5.json.gz']
    (tmp_path / 'meta_X.json').unlink()
    source.fetch(data, tmp_path)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
  ('source', 'paths'),
  [
    ('amazon2018', ('categoryFilesSmall/X_5.json.gz', 'metaFiles2/meta_X.json.gz')),
    (
      'amazon2023',
      ('benchmark/5core/rating_only/X.csv.gz', 'raw/meta_categories/meta_X.jsonl.gz'),
    ),
  ],
)
def test_later_amazon_editions_use_subfolders_of_the_address(tmp_path, source, paths):
  with serve(dict.fromkeys(paths, CONTENT)) as (url, requests):
    data = sources.get(source)(
      source=source, name='x', category='X', download=True, download_url=url
    )
    sources.get(source).fetch(data, tmp_path)
  assert [path for path, _ in requests] == [f'/{path}' for path in paths]
  names = {path.rpartition('/')[2] for path in paths}
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
    names, CONTENT
  )


def archive(**files):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as packed:
    packed.writestr('ml-100k/', '')
    for name, content in files.items():
      packed.writestr(f'ml-100k/{name}', content)
  return buffer.getvalue()


MOVIELENS = {'u.data': b'1\t10\t5\t1\n', 'u.item': b'10|a|||||1\n', 'u.genre': b'Drama|0\n'}


def fetch_movielens(url, folder):
  data = sources.get('movielens')(
    source='movielens', name='x', category='ml-100k', download=True, download_url=url
  )
  sources.get('movielens').fetch(data, folder)


def test_movielens_is_unpacked_and_fetched_once(tmp_path):
  files = MOVIELENS | {'README': CONTENT}
  with serve({'ml-100k.zip': archive(**files)}) as (url, requests):
    for _ in range(2):
      fetch_movielens(url, tmp_path / 'raw')
  assert requests == [('/ml-100k.zip', None)]
  assert {path.name: path.read_bytes() for path in (tmp_path / 'raw').iterdir()} == files


@pytest.mark.parametrize('flip', [0.3, 0.6])
def test_a_broken_archive_leaves_no_files(tmp_path, flip):
  content = bytearray(archive(**MOVIELENS, README=CONTENT))
  content[int(flip * len(content))] ^= 255
  (tmp_path / 'u.item').write_bytes(b'mine')
  with (
    serve({'ml-100k.zip': bytes(content)}) as (url, _),
    pytest.raises(ValueError, match=r'ml-100k\.zip must be a complete zip file'),
  ):
    fetch_movielens(url, tmp_path)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'u.item': b'mine'}


def test_an_archive_cannot_write_outside_the_folder(tmp_path):
  evil = archive(**{'../../../escaped': b'x', 'a/../u.data': b'y'})
  with serve({'ml-100k.zip': evil}) as (url, _), pytest.raises(FileNotFoundError, match=r'u\.item'):
    fetch_movielens(url, tmp_path / 'deep' / 'raw')
  assert sorted(path.name for path in tmp_path.rglob('*')) == ['deep', 'escaped', 'raw', 'u.data']
  assert (tmp_path / 'deep' / 'raw' / 'escaped').exists()
  again = archive(**{'x/u.data': b'y', 'u.data': b'z'})
  with (
    serve({'ml-100k.zip': again}) as (url, _),
    pytest.raises(ValueError, match='without two files of one name'),
  ):
    fetch_movielens(url, tmp_path)


def test_a_download_into_a_bucket_is_rejected():
  with pytest.raises(ValueError, match=r'local folder.*--config\.data\.raw_dir'):
    raw_files.local(epath.Path('gs://some-bucket/raw'))
