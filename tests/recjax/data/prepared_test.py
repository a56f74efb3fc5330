"""Stage folders of a prepared folder, and the record of variants."""

import os
import pickle

from etils import epath
import pytest

from recjax.data import prepared
from recjax.data.prepared import Prepared
from recjax.runtime.files import digest


def make(root, *folders):
  for folder in folders:
    (root / folder).mkdir(parents=True)
    (root / folder / prepared.MANIFEST).write_text('{}')


def test_paths_are_those_of_the_recorded_variant(tmp_path):
  chosen = Prepared(tmp_path, {'sids': 'sids-0123abcd', 'interactions': 'interactions'})
  assert chosen / 'sids/codes.npy' == tmp_path / 'sids-0123abcd' / 'codes.npy'
  assert chosen / 'sids' / 'codes.npy' == tmp_path / 'sids-0123abcd' / 'codes.npy'
  assert chosen / 'interactions/a/b' == tmp_path / 'interactions' / 'a' / 'b'
  (tmp_path / 'keywords').mkdir()  # of another config
  assert not (chosen / 'keywords').exists()
  assert (Prepared(tmp_path) / 'keywords').exists()
  assert str(chosen) == os.fspath(chosen) == str(tmp_path)
  assert pickle.loads(pickle.dumps(chosen)) == chosen != Prepared(tmp_path)
  assert Prepared.of(chosen) is chosen
  assert Prepared.of(tmp_path) == Prepared(tmp_path)


def test_a_folder_without_variants_needs_no_record(tmp_path):
  with pytest.raises(
    ValueError, match=r'--mode=prepare first, or set --config\.data\.prepared_dir'
  ):
    prepared.recorded(tmp_path, {'a': 1})
  make(tmp_path, 'sids')
  assert prepared.recorded(tmp_path, {'a': 1}) == Prepared(tmp_path)


def test_variants_are_found_only_through_the_record(tmp_path):
  make(tmp_path, 'sids', 'sids-0123abcd')
  folders = {'sids': 'sids-0123abcd'}
  prepared.write_record(epath.Path(tmp_path), {digest({'a': 1}): folders})
  assert prepared.recorded(tmp_path, {'a': 1}) == Prepared(tmp_path, folders)
  with pytest.raises(ValueError, match='with this config'):
    prepared.recorded(tmp_path, {'a': 2})
  (tmp_path / 'sids-0123abcd' / prepared.MANIFEST).unlink()
  with pytest.raises(ValueError, match='with this config'):
    prepared.recorded(tmp_path, {'a': 1})
  prepared.write_record(epath.Path(tmp_path), {})
  assert prepared.recorded(tmp_path, {'a': 1}) == Prepared(tmp_path)


def test_a_damaged_record_is_named(tmp_path):
  (tmp_path / prepared.RECORD).write_text('{')
  with pytest.raises(ValueError, match=r'\.variants\.json must hold a JSON object'):
    prepared.recorded(tmp_path, {})
