"""Checkpoints by name, from a local server that plays the hub."""

import concurrent.futures
import logging
import re
import shutil
import time

from huggingface_hub import constants
import pytest

from recjax.models import pretrained
from recjax.models.pretrained import hub as hub_lib
from tests.goldens.make_decoders import GOLDENS
from tests.recjax.models.pretrained import hub_server

MAIN = f'hf:org/tiny@{hub_server.COMMITS["main"]}'
OLDER = f'hf:org/tiny@{hub_server.COMMITS["older"]}'


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """The server, its repository (a tiny Gemma with files that are not needed), and an empty cache."""
  folder = tmp_path / 'repository'
  shutil.copytree(GOLDENS / 'gemma3', folder)
  for name in ('pytorch_model.bin', 'tf_model.h5', 'README.md', 'model.gguf', 'other.safetensors'):
    (folder / name).write_bytes(b'never read')
  (folder / 'tokenizer_config.json').write_text('{}')
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setenv('HF_HUB_DISABLE_PROGRESS_BARS', '1')
  with hub_server.serving(folder) as server:
    set_endpoint(monkeypatch, server.url)
    yield server


def set_endpoint(monkeypatch, url):
  template = url + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'ENDPOINT', url)
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)


def test_only_the_files_that_are_read_are_fetched_and_once(hub):
  assert pretrained.fetch('hf:org/tiny') == MAIN
  folder = pretrained.path(MAIN)
  assert {file.name for file in folder.iterdir()} == {
    'config.json', 'model.safetensors', 'tokenizer_config.json'
  }  # fmt: skip
  assert (folder / 'model.safetensors').read_bytes() == hub.content('model.safetensors')
  assert pretrained.read_config(MAIN).vocab_rows == 64
  hub.requests.clear()
  assert pretrained.fetch('hf:org/tiny') == MAIN
  assert hub.bodies() == []
  hub.requests.clear()
  assert pretrained.fetch(MAIN) == MAIN  # a resume needs no network
  assert hub.requests == []


def test_an_exported_folder_keeps_its_semantic_ids(hub):
  (hub.folder / 'recjax.json').write_text('{"made": "by an export"}')
  folder = pretrained.path(pretrained.fetch('hf:org/tiny'))
  assert (folder / 'recjax.json').read_text() == '{"made": "by an export"}'


def test_a_revision_and_the_commit_of_an_earlier_start_are_used(hub):
  assert pretrained.resolve('hf:org/tiny@older') == OLDER
  assert pretrained.resolve('hf:org/tiny', known=OLDER) == OLDER
  assert pretrained.resolve('hf:org/tiny@main', known=OLDER) == MAIN
  assert pretrained.resolve('hf:org/tiny', known=f'hf:org/other@{"c" * 40}') == MAIN
  with pytest.raises(FileNotFoundError, match=r"hf:org/tiny must have the revision 'v9'"):
    pretrained.resolve('hf:org/tiny@v9')


def test_parts_of_a_sharded_checkpoint_are_found_by_its_index(hub):
  (hub.folder / 'model.safetensors').rename(hub.folder / 'part-1.safetensors')
  (hub.folder / 'model.safetensors.index.json').write_text(
    '{"weight_map": {"model.norm.weight": "part-1.safetensors"}}'
  )
  folder = pretrained.path(pretrained.fetch('hf:org/tiny'))
  assert (folder / 'part-1.safetensors').exists() and not (folder / 'other.safetensors').exists()


def test_an_interrupted_download_continues(hub):
  size = len(hub.content('model.safetensors'))
  hub.cut_after = [size // 2] * 1
  pretrained.fetch('hf:org/tiny')
  content = (pretrained.path(MAIN) / 'model.safetensors').read_bytes()
  assert content == hub.content('model.safetensors')
  assert hub.bodies().count('model.safetensors') == 2


def test_without_the_network_the_cache_is_used_with_one_line(hub, monkeypatch, caplog):
  with monkeypatch.context() as offline:
    offline.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ConnectionError, match='HF_HUB_OFFLINE is set') as caught:
      pretrained.fetch('hf:org/tiny')
    assert '\n' not in str(caught.value)
  pretrained.fetch('hf:org/tiny')
  for name, value in (('HF_HUB_OFFLINE', True), ('ENDPOINT', 'http://127.0.0.1:9')):
    with monkeypatch.context() as offline, caplog.at_level(logging.WARNING, hub_lib.log.name):
      offline.setattr(constants, name, value)
      caplog.clear()
      assert pretrained.fetch('hf:org/tiny') == MAIN
      (record,) = [r for r in caplog.records if r.name == hub_lib.log.name]
      assert f'the cache holds {MAIN}' in record.getMessage()


@pytest.mark.parametrize(
  ('refusal', 'kind', 'message'),
  [
    ((401, 'GatedRepo'), PermissionError, r'hf:org/tiny is gated: accept its licence at .*HF_TOKEN'),
    ((403, 'GatedRepo'), PermissionError, r'hf:org/tiny is gated'),
    ((404, 'RepoNotFound'), FileNotFoundError, r'must be a repository of the hub.*--config.model.pret'),
    ((503, 'Busy'), ConnectionError, r'the hub answered 503 for hf:org/tiny'),
  ],
)  # fmt: skip
def test_refusals_are_one_line_with_the_remedy(hub, refusal, kind, message):
  hub.refusal = refusal
  with pytest.raises(kind, match=message) as caught:
    pretrained.fetch('hf:org/tiny')
  assert '\n' not in str(caught.value)


def test_a_refused_connection_a_wrong_name_and_pickled_weights_are_one_line(hub, monkeypatch):
  with pytest.raises(ValueError, match=r"hf:organisation/name or .*got 'hf:org/tiny@'"):
    pretrained.fetch('hf:org/tiny@')
  with pytest.raises(ValueError, match=r'hf:org/tiny must be fetched before it is used'):
    pretrained.read_config('hf:org/tiny')
  (hub.folder / 'model.safetensors').unlink()
  with pytest.raises(
    ValueError, match=r'it holds model.gguf, pytorch_model.bin, .*Set --config.model.pretr'
  ):
    pretrained.fetch('hf:org/tiny')
  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  with pytest.raises(ConnectionError, match=r'http://127.0.0.1:9 cannot be reached') as caught:
    pretrained.fetch('hf:org/tiny')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name',
  ['hf:..', 'hf:org/..', 'hf:-x/y', 'hf:org/a--b', 'hf:org/tiny.git', 'hf:ä/ü', f'hf:{"a" * 97}',
   'hf:org/tiny@..', 'hf:org/tiny@../x', 'hf:org/tiny@x/', 'hf:org/tiny@.'],
)  # fmt: skip
def test_names_that_the_hub_cannot_have_are_refused_without_a_request(hub, name):
  with pytest.raises(ValueError, match=rf'hf:organisation/name or .*got {re.escape(repr(name))}'):
    pretrained.fetch(name)
  assert hub.requests == []


def test_a_branch_with_a_slash_is_found_in_the_cache_and_its_folder_is_no_branch(hub, monkeypatch):
  monkeypatch.setitem(hub_server.COMMITS, 'feature/x', 'd' * 40)
  fetched = pretrained.fetch('hf:org/tiny@feature/x')
  assert fetched == f'hf:org/tiny@{"d" * 40}'
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  assert pretrained.fetch('hf:org/tiny@feature/x') == fetched
  with pytest.raises(ConnectionError, match='HF_HUB_OFFLINE is set'):
    pretrained.fetch('hf:org/tiny@feature')


@pytest.mark.parametrize('body', [b'<!DOCTYPE html>', b'[]', b'{}', None])
def test_a_server_that_is_no_hub_or_never_answers_is_one_line(hub, monkeypatch, body):
  monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 0.2)
  monkeypatch.setattr(hub, 'answer', lambda: time.sleep(1) if body is None else body)
  must = 'cannot be reached' if body is None else 'must be a hub; its answer for hf:org/tiny'
  with pytest.raises(ConnectionError, match=must) as caught:
    pretrained.fetch('hf:org/tiny')
  assert '\n' not in str(caught.value)


def test_a_damaged_file_is_removed_and_a_full_disk_is_named(hub, monkeypatch):
  hub.damaged = 'model.safetensors'
  with pytest.raises(
    OSError, match=r'model.safetensors of hf:org/tiny must have the hash'
  ) as caught:
    pretrained.fetch('hf:org/tiny')
  assert '\n' not in str(caught.value)
  hub.damaged = None

  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patched:
    patched.setattr(hub_lib.huggingface_hub, 'snapshot_download', full)
    patched.setattr(hub_lib, '_is_complete', lambda *_: False)
    with pytest.raises(OSError, match=r'No space left on device. Free space there'):
      pretrained.fetch('hf:org/tiny')
  assert pretrained.fetch('hf:org/tiny') == MAIN


def test_one_process_downloads_and_the_other_waits(hub):
  # Two threads hold the lock of two files, as two processes do.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    fetched = list(pool.map(pretrained.fetch, ['hf:org/tiny'] * 2))
  assert fetched == [MAIN, MAIN]
  assert hub.bodies().count('model.safetensors') == 1
