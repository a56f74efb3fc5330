"""Missing files of the user are rejected before any stage runs, also in a folder with other prepared data."""

import pytest

from configs import demo
from data_prep import prepare
from recjax import config as config_lib


def config(folder, fields):
  made = demo.get_config('tiny')
  made.data.prepared_dir = str(folder)
  made.update_from_flattened_dict(fields)
  return config_lib.from_config_dict(made)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prepared') / 'data'
  prepare.prepare(config(folder, {}))
  return folder


IMPORTED = {'sids.quantizer': 'import', 'sids.table': '/nosuch.json'}
KEYWORDS = {
  'keywords.teacher': 'import',
  'keywords.file': '/nosuch.json',
  'model.sid_rows': 'sa_init',
}


@pytest.mark.parametrize(
  ('fields', 'field'),
  [
    ({'data.sentencepiece': '/nosuch.model'}, 'data.sentencepiece'),
    (IMPORTED, 'sids.table'),
    (KEYWORDS, 'keywords.file'),
    ({'sids.encoder': '/nosuch'}, 'sids.encoder'),
    ({'sids.extend': '/nosuch'}, 'sids.extend'),
    ({'model.pretrained': '/nosuch'}, 'model.pretrained'),
  ],
)
@pytest.mark.parametrize('is_first', [True, False])
def test_a_missing_file_is_rejected_with_its_field(
  prepared, tmp_path, capsys, fields, field, is_first
):
  folder = tmp_path / 'data' if is_first else prepared
  with pytest.raises((ValueError, OSError), match=rf'--config\.{field}\b'):
    prepare.prepare(config(folder, fields))
  assert capsys.readouterr().out == ''
  assert not (tmp_path / 'data').exists()


def test_a_damaged_sentencepiece_model_is_refused_before_anything_is_prepared(tmp_path):
  (tmp_path / 'a.model').write_bytes(b'no model')
  fields = {'data.sentencepiece': str(tmp_path / 'a.model')}
  with pytest.raises(ValueError, match=r'a\.model must be .*--config\.data\.sentencepiece'):
    prepare.prepare(config(tmp_path / 'data', fields))
  assert not (tmp_path / 'data').exists()


def test_glob_characters_in_paths_are_literal(tmp_path):
  root = tmp_path / 'a[1]*?'
  first = root / 'first[2]'
  prepare.prepare(config(first, {}))
  model = first / 'tokenizer/spiece.model'
  prepare.prepare(config(root / 'next[3]', {'sids.extend': str(first)}))
  copied = {
    'data.sentencepiece': str(model),
    **IMPORTED,
    'sids.table': str(first / 'sids/table.json'),
  }
  copied['sids.codes'] = (16, 16, 120)  # the last level distinguishes items with equal codes
  assert (prepare.prepare(config(root / 'copied[4]', copied)) / 'sids/table.json').exists()
