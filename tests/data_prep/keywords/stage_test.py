"""The `keywords` stage in a whole preparation: format, skips, leaks, and checks before the start."""

import json

import numpy as np
import pytest

from data_prep import prepare
from data_prep import stage as stage_lib
from data_prep.keywords import stage as keyword_stage
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from tests.data_prep.keywords.chat_server import serve
from tests.data_prep.prepare_test import ITEMS, USERS, outcomes, random_rows, write_raw


def make_config(tmp_path, out='out', sid_rows='sa_init', sids=None, **section):
  config = config_lib.defaults(source='amazon2014', name='x')
  config.data.update(
    category='X', k_core=0, raw_dir=str(tmp_path / 'raw'), prepared_dir=str(tmp_path / out)
  )
  config.data.text_pieces = 320
  config.sids.update(encoder='tfidf', codes=(8, 8), tfidf_width=6, cooccurrence_width=4)
  config.sids.update(sids or {})
  config.model.sid_rows = sid_rows
  config.keywords.update(section)
  return config_lib.from_config_dict(config)


def http(server, **section):
  return dict(
    teacher='http', url=server.url, model='m', requests_per_minute=1e6, max_retries=0, **section
  )


def used_tokens(dataset):
  codes_IL = dataset.sids.codes_IL[:, :2]  # without the level of de-duplication
  return [
    f'<{"ab"[level]}_{code}>' for level in range(2) for code in sorted(set(codes_IL[:, level]))
  ]


def test_there_is_one_entry_per_used_token(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  config = make_config(tmp_path)
  prepare.prepare(config)
  dataset = Dataset.load(tmp_path / 'out')
  entries = json.loads((tmp_path / 'out' / 'keywords' / 'keywords.json').read_text())
  assert [entry['token'] for entry in entries] == used_tokens(dataset)
  assert all(list(entry) == ['token', 'description', 'keywords'] for entry in entries)
  assert entries == dataset.keywords
  # A word of the keywords is in the text of an item of that token.
  for entry in entries:
    level, code = 'ab'.index(entry['token'][1]), int(entry['token'][3:-1])
    texts = [
      dataset.items[i]['text'] for i in np.flatnonzero(dataset.sids.codes_IL[:, level] == code)
    ]
    assert all(any(word in text for text in texts) for word in entry['keywords'])
  capsys.readouterr()
  prepare.prepare(config)
  assert outcomes(capsys)['keywords'] == 'skipped'
  other = prepare.prepare(make_config(tmp_path, keywords=3))
  assert {name for name, done in outcomes(capsys).items() if done == 'done'} == {'keywords'}
  assert max(len(entry['keywords']) for entry in Dataset.load(other).keywords) == 3


def test_the_stage_runs_only_if_a_task_needs_keywords(tmp_path):
  write_raw(tmp_path / 'raw', random_rows())
  prepare.prepare(make_config(tmp_path, sid_rows='mean'))
  assert not (tmp_path / 'out' / 'keywords').exists()
  assert Dataset.load(tmp_path / 'out').keywords is None


def test_keywords_do_not_depend_on_held_out_interactions(tmp_path):
  rows = random_rows()
  write_raw(tmp_path / 'raw', rows)
  prepare.prepare(make_config(tmp_path))
  before = (tmp_path / 'out' / 'keywords' / 'keywords.json').read_bytes()
  rng = np.random.default_rng(2)
  for row in rows[-2 * USERS :]:
    row['asin'] = f'i{rng.integers(ITEMS):03}'
  write_raw(tmp_path / 'raw', rows)
  prepare.prepare(make_config(tmp_path, 'again'))
  assert (tmp_path / 'again' / 'keywords' / 'keywords.json').read_bytes() == before


def test_a_language_model_is_asked_once(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('OPENAI_API_KEY', '')
  write_raw(tmp_path / 'raw', random_rows())
  with serve() as server:
    config = make_config(tmp_path, **http(server))
    dataset = Dataset.load(prepare.prepare(config))
    out = capsys.readouterr().out
    tokens = used_tokens(dataset)
    questions = len(server.requests)
    assert questions <= len(tokens)  # tokens with the same items share a question
    assert f'keywords: {questions} requests to m at http://127.0.0.1' in out
    assert [entry['token'] for entry in dataset.keywords] == tokens
    monkeypatch.delenv('OPENAI_API_KEY')
    assert prepare.find(config)
    prepare.prepare(make_config(tmp_path, **http(server) | {'url': 'http://elsewhere'}))
    assert outcomes(capsys)['keywords'] == 'skipped'
    # After a change to another teacher and back, the paid answers are reused.
    prepare.prepare(make_config(tmp_path))
    assert Dataset.load(prepare.prepare(config)).keywords == dataset.keywords
    assert len(server.requests) == questions


def test_a_refresh_reuses_the_earlier_answers(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', '')
  write_raw(tmp_path / 'raw', random_rows())
  with serve() as server:
    prepare.prepare(make_config(tmp_path, **http(server)))
    questions = len(server.requests)
    extend = {'extend': str(tmp_path / 'out')}
    prepare.prepare(make_config(tmp_path, 'next', sids=extend, **http(server)))
    assert len(server.requests) == questions
  assert Dataset.load(tmp_path / 'next').keywords == Dataset.load(tmp_path / 'out').keywords


def test_a_failing_endpoint_does_not_remove_earlier_keywords(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', '')
  write_raw(tmp_path / 'raw', random_rows())
  prepare.prepare(make_config(tmp_path))
  before = (tmp_path / 'out' / 'keywords' / 'keywords.json').read_bytes()
  with serve() as server:
    server.answers_before_hold = 3
    server.hold.set()
    config = make_config(tmp_path, **http(server))
    with pytest.raises(ConnectionError, match=r'3 of \d+ requests are answered and stored'):
      prepare.prepare(config)
    assert (tmp_path / 'out' / 'keywords' / 'keywords.json').read_bytes() == before
    before = len(server.requests)
    server.answers_before_hold = None
    prepare.prepare(config)
    lines = (tmp_path / 'out' / keyword_stage.JOURNAL).read_text().splitlines()
    assert len(server.requests) - before == len(lines) - 3


def test_an_imported_file_may_be_relative_to_the_raw_folder(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  prepare.prepare(make_config(tmp_path))
  (tmp_path / 'out' / 'keywords' / 'keywords.json').rename(tmp_path / 'raw' / 'words.json')
  imported = {'teacher': 'import', 'file': 'words.json'}
  config = make_config(tmp_path, **imported)
  assert len(Dataset.load(prepare.prepare(config)).keywords) > 1
  (tmp_path / 'raw' / 'words.json').unlink()
  assert prepare.find(config)  # what it held is there
  prepare.prepare(config)


@pytest.mark.parametrize(
  ('section', 'message'),
  [
    (
      {'teacher': 'import', 'file': 'no.json'},
      r'no\.json must exist, also relative to .*keywords\.file',
    ),
    ({'teacher': 'http', 'url': 'http://localhost:1', 'model': 'm'}, r'OPENAI_API_KEY must hold'),
  ],
)
def test_an_unusable_teacher_is_rejected_before_the_first_stage(
  tmp_path, monkeypatch, section, message
):
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  write_raw(tmp_path / 'raw', random_rows())
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    prepare.prepare(make_config(tmp_path, **section))
  assert not (tmp_path / 'out').exists()


def test_the_http_teacher_rejects_a_remote_prepared_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', '')
  section = {'teacher': 'http', 'url': 'http://localhost:1', 'model': 'm'}
  config = make_config(tmp_path, **section)
  with pytest.raises(ValueError, match=r'must be a local folder.*--config\.data\.prepared_dir'):
    keyword_stage._journal(config.prepared_folder.__class__('gs://bucket/data'))
  with pytest.raises(ValueError, match=r'keywords\.url must begin with http'):
    make_config(tmp_path, **section | {'url': 'localhost:1'})


def test_the_stage_reads_only_items_and_sids(tmp_path):
  write_raw(tmp_path / 'raw', random_rows())
  root = prepare.prepare(make_config(tmp_path))
  manifest = stage_lib.read_manifest(root / 'keywords')
  assert sorted(manifest['inputs']) == [
    'interactions/items.jsonl',
    'sids/codes.npy',
    'sids/sids.json',
  ]
