import hashlib
import os
import re

from etils import epath
import pytest

from recjax.runtime import files


def test_equal_values_have_equal_digests():
  assert files.digest({'a': 1, 'b': [2]}) == files.digest({'b': [2], 'a': 1})
  assert files.digest({'a': 1}) != files.digest({'a': 2})


def test_sha256_is_that_of_the_bytes(tmp_path):
  (tmp_path / 'f').write_bytes(b'abc' * 100_000)
  assert files.sha256(tmp_path / 'f') == hashlib.sha256(b'abc' * 100_000).hexdigest()


@pytest.mark.parametrize('content', ['text ü\n', b'\x00\xff'])
def test_a_file_is_replaced_whole(tmp_path, content):
  path = epath.Path(tmp_path / 'f')
  path.write_text('before')
  files.write_whole(path, content)
  assert (path.read_bytes() if isinstance(content, bytes) else path.read_text('utf-8')) == content
  assert [p.name for p in tmp_path.iterdir()] == ['f']


def test_an_error_leaves_the_file_unchanged(tmp_path):
  path = epath.Path(tmp_path / 'f')
  path.write_text('before')
  with pytest.raises(RuntimeError, match='in the middle'), files.replacing(path) as f:
    f.write('half')
    raise RuntimeError('in the middle')
  assert path.read_text() == 'before'
  assert [p.name for p in tmp_path.iterdir()] == ['f']


def test_partial_names_are_unique():
  assert files.partial_name('a/b') != files.partial_name('a/b')
  assert files.partial_name('a/b').parent == epath.Path('a')


def test_buckets_are_not_local():
  assert files.is_local('a/b') and not files.is_local('gs://a/b')


def test_leaves_of_nested_mappings_have_dotted_names():
  assert files.flat({'a': {'b': 1, 'c': {'d': [2]}}, 'e': {}, 'f': None}) == {
    'a.b': 1, 'a.c.d': [2], 'f': None
  }  # fmt: skip


def test_the_commit_is_that_of_the_checkout():
  assert re.fullmatch(r'[0-9a-f]{40}(-dirty)?', files.code_commit() or '0' * 40)


def test_partial_files_of_killed_processes_are_removed(tmp_path):
  for name in ('f', '.f.0a.partial', '.g.0a.partial', '.f.0a.partial.txt'):
    (tmp_path / name).write_text('x')
  files.remove_partial_files(tmp_path / 'f')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['.f.0a.partial.txt', '.g.0a.partial', 'f']
  files.remove_partial_files(tmp_path / 'gone' / 'f')


def test_folders_to_write_are_checked_before_they_are_made(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'link').symlink_to(tmp_path / 'missing')
  files.check_writable(tmp_path / 'new' / 'run', '--workdir')
  files.check_writable('gs://bucket/run', '--workdir')
  for path, kind in (('file/run', 'a file'), ('link/run', 'a link to a missing folder')):
    with pytest.raises(NotADirectoryError, match=f'^--workdir must be a folder; .* is {kind}$'):
      files.check_writable(tmp_path / path, '--workdir')
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  files.check_folder(tmp_path / 'new', '--config.data.prepared_dir')  # may be read-only
  with pytest.raises(PermissionError, match='--workdir must be a folder that can be written'):
    files.check_writable(tmp_path / 'new', '--workdir')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('path', 'why'), [('s3://x/y', 'Install s3fs'), ('what://x/y', 'the protocol is unknown')]
)
def test_a_protocol_that_cannot_be_read_is_named(path, why):
  with pytest.raises(
    OSError, match=f'--masks must be a folder that can be read; got {path}: {why}'
  ):
    files.existing(path, '--masks', 'folder')
