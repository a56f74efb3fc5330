"""The daily refresh on a small log that grows for two days, and imported tables."""

import gzip
import json
import os
import shutil

import numpy as np
import pytest

from data_prep import prepare
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.sids.quantizers.saved import Quantizer
from tests.folders import contents

USERS, LENGTH = 60, 8
DAY_1, DAY_2, DAY_3 = 40, 55, 60  # items of the catalogue
GONE = 7  # an item that only the log of the first day contains
WORDS = ('red', 'blue', 'green', 'soap', 'brush', 'oil', 'dry', 'soft', 'night', 'day')


def name(item):
  """Returns a raw id. New ids sort between old ids, so the indices of old items change."""
  return f'{item % 10}-{item:03}'


def write_day(folder, items, seed, swap_held_out=False):
  """Writes the log of one day: every item occurs, and users choose from one half of the catalogue."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  shared = 1 + rng.permutation(items - 1)
  rows = []
  for u in range(USERS):
    half = shared[shared % 2 == u % 2]
    chosen = [half[u // 2 % len(half)], *rng.choice(half, LENGTH - 1)]
    rows += [(f'u{u}', int(item), t) for t, item in enumerate(chosen)]
  if items > DAY_1:
    rows = [(user, item + (item == GONE), t) for user, item, t in rows]
  if swap_held_out:
    known = sorted({item for _, item, _ in rows})
    rows = [
      (user, int(rng.choice(known)) if t >= LENGTH - 2 else item, t) for user, item, t in rows
    ]
  texts = np.random.default_rng(0).choice(WORDS, (DAY_3, 4))
  lines = [
    json.dumps({'reviewerID': user, 'asin': name(item), 'unixReviewTime': t})
    for user, item, t in rows
  ]
  meta = [json.dumps({'asin': name(n), 'title': ' '.join(texts[n])}) for n in range(items)]
  for file, content in (('reviews_X_5', lines), ('meta_X', meta)):
    text = ''.join(line + '\n' for line in content)
    (folder / f'{file}.json.gz').write_bytes(gzip.compress(text.encode(), mtime=0))


def make_config(tmp_path, raw, out, data=None, **sids):
  config = config_lib.defaults(source='amazon2014', name='x')
  config.data.update(category='X', k_core=0, text_pieces=320)
  config.data.update({'raw_dir': str(tmp_path / raw), 'prepared_dir': str(tmp_path / out)})
  config.data.update(data or {})
  config.sids.update(encoder='tfidf', codes=(8, 4), tfidf_width=6, cooccurrence_width=5)
  config.sids.update(sids)
  return config_lib.from_config_dict(config)


@pytest.fixture
def days(tmp_path):
  for day, items in ((1, DAY_1), (2, DAY_2), (3, DAY_3)):
    write_day(tmp_path / f'raw{day}', items, seed=day)
  return tmp_path


def prepared(tmp_path, day, out=None, extend=None, **fields):
  extend = {} if extend is None else {'extend': str(tmp_path / extend)}
  config = make_config(tmp_path, f'raw{day}', out or f'day{day}', **extend, **fields)
  return Dataset.load(prepare.prepare(config))


def sids_by_id(data):
  return {
    item['id']: tuple(sid)
    for item, sid in zip(data.items, data.sids.codes_IL.tolist(), strict=True)
  }


RQVAE = {'hidden': (8,), 'latent': 4, 'epochs': 3, 'batch_size': 16}


@pytest.mark.parametrize(
  'fields',
  [
    {'source': 'text'},
    {'source': 'cooccurrence'},
    {'source': 'both', 'collisions': 'keep'},
    {'source': 'both', 'collisions': 'sinkhorn', 'codes': (8, 16)},
    {'source': 'both', 'quantizer': 'rqvae', 'rqvae': RQVAE},
  ],
  ids=lambda fields: '-'.join(map(str, list(fields.values())[:2])),
)
def test_old_items_keep_their_sids_and_new_items_get_free_sids(days, fields):
  collisions = fields.get('collisions', 'deduplicate')
  first = prepared(days, 1, **fields)
  second = prepared(days, 2, extend='day1', **fields)
  third = prepared(days, 3, extend='day2', **fields)
  old, new, newest = map(sids_by_id, (first, second, third))
  assert name(GONE) in old and name(GONE) not in new
  assert len(new.keys() - old.keys()) > 10 and len(newest.keys() - new.keys()) > 2
  for earlier, later in ((old, new), (new, newest)):
    stays = earlier.keys() & later.keys()
    assert len(stays) > 30
    assert {item: later[item] for item in stays} == {item: earlier[item] for item in stays}
  assert len({data.sids.code_space_hash for data in (first, second, third)}) == 1
  assert len({data.files_digest('tokenizer') for data in (first, second, third)}) == 1
  # The codes of the new items are the nearest ones in the old space.
  quantizer = Quantizer.load(days / 'day1' / 'sids')
  for day, data, earlier in ((2, second, old), (3, third, new)):
    stages = ('text_embeddings', 'cooccurrence_vectors')
    files = [days / f'day{day}' / stage / 'embeddings.npy' for stage in stages]
    vectors = np.concatenate([np.load(file) for file in files if file.exists()], axis=1)
    fresh = [i for i, item in enumerate(data.items) if item['id'] not in earlier]
    got = data.sids.codes_IL[fresh]
    nearest = quantizer.assign(vectors[fresh])
    elsewhere = (got[:, :2] != nearest).any(axis=1)
    if collisions != 'sinkhorn':  # where one item takes the whole SID, near ones must move
      assert not (elsewhere.any() if collisions == 'keep' else elsewhere.all())
    assert (data.sids.sharing_items > 0) == (collisions == 'keep')
    taken = {*earlier.values(), *map(tuple, data.sids.codes_IL.tolist())}
    for n in np.flatnonzero(elsewhere):  # only where all SIDs with the nearest codes are taken
      ends = [(last,) for last in range(data.sids.codes_per_level[-1])]
      assert {(*nearest[n], *end) for end in (ends if data.sids.deduplicated else [()])} <= taken


def test_vectors_of_new_items_are_in_the_earlier_space(days):
  first, second = prepared(days, 1), prepared(days, 2, extend='day1')
  before, after = ({item['id']: i for i, item in enumerate(d.items)} for d in (first, second))
  assert list(before)[20] != list(after)[20]
  for stage in ('text_embeddings', 'cooccurrence_vectors'):
    old, new = (np.load(days / day / stage / 'embeddings.npy') for day in ('day1', 'day2'))
    assert old.shape[1] == new.shape[1]
    for item in before.keys() & after.keys():
      np.testing.assert_allclose(new[after[item]], old[before[item]], atol=1e-6)
  # Users choose from one half of the catalogue, so a new item is nearest to items of its own half.
  vectors = np.load(days / 'day2' / 'cooccurrence_vectors' / 'embeddings.npy')
  half = {item: int(item[2:]) % 2 for item in after}
  known = [i for item, i in after.items() if item in before]
  fresh = [(item, i) for item, i in after.items() if item not in before and vectors[i].any()]
  assert len(fresh) > 5
  for item, i in fresh:
    nearest = second.items[known[int(np.argmax(vectors[known] @ vectors[i]))]]['id']
    assert half[nearest] == half[item]


def test_an_extended_folder_is_complete_without_the_earlier_folder(days, capsys):
  prepared(days, 1)
  before = sids_by_id(prepared(days, 2, extend='day1'))
  shutil.rmtree(days / 'day1')
  capsys.readouterr()
  assert sids_by_id(prepared(days, 2, extend='day1')) == before
  assert 'done' not in capsys.readouterr().out
  after = sids_by_id(prepared(days, 3, extend='day2'))
  assert after.items() >= {item: before[item] for item in before.keys() & after.keys()}.items()


def test_extending_repeats_bit_for_bit(days):
  prepared(days, 1)
  prepared(days, 2, extend='day1')
  prepared(days, 2, out='again', extend='day1')
  assert contents(days / 'day2') == contents(days / 'again')


def test_todays_held_out_interactions_do_not_change_the_extended_folder(days):
  prepared(days, 1)
  prepared(days, 2, extend='day1')
  before = contents(days / 'day2')
  write_day(days / 'raw2', DAY_2, seed=2, swap_held_out=True)
  data = prepared(days, 2, out='swapped', extend='day1')
  after = contents(days / 'swapped')
  assert sorted(before) == sorted(after)
  assert before['interactions/test_items.npy'] != after['interactions/test_items.npy']
  assert (len(data.items), len(sids_by_id(data))) == (len(data.items),) * 2
  for file in before:
    if not file.startswith('interactions/') and not file.endswith('manifest.json'):
      assert before[file] == after[file], file


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'codes': (8, 8)}, r'its sids differ in codes \(\[8, 4\] earlier, \[8, 8\] now\)'),
    ({'codes': (8, 4, 4)}, r'its sids differ in codes'),
    (
      {'collisions': 'keep'},
      r"its sids differ in collisions \('deduplicate' earlier, 'keep' now\)",
    ),
    ({'source': 'text'}, r"its sids differ in source \('both' earlier, 'text' now\)"),
    ({'tfidf_width': 7}, r'its text_embeddings differ in width \(6 earlier, 7 now\)'),
    ({'cooccurrence_width': 4}, r'its cooccurrence_vectors differ in width \(5 earlier, 4 now\)'),
    ({'cooccurrence_window': 2}, r'its cooccurrence_vectors differ in window'),
    ({'data': {'text_pieces': 330}}, r'its tokenizer differ in text_pieces'),
    (
      {'encoder': 'file.npy'},
      r"its text_embeddings differ in kind \('tfidf' earlier, 'file' now\)",
    ),
    ({'quantizer': 'rqvae'}, r'its sids differ in quantizer .*, rqvae.batch_size \(None earlier'),
  ],
)
def test_settings_that_differ_from_the_earlier_ones_are_rejected_by_name(
  days, monkeypatch, fields, message
):
  prepared(days, 1)
  monkeypatch.chdir(days)
  np.save('file.npy', np.zeros((DAY_2, 6), np.float32))
  with pytest.raises(ValueError, match=message):
    prepared(days, 2, extend='day1', **fields)
  # Settings of the SIDs are checked before the first stage.
  assert (days / 'day2').exists() == ('its sids differ' not in message)


def test_folders_that_cannot_be_extended_are_rejected(days):
  with pytest.raises(ValueError, match=r'must be a prepared folder; .*day1 lacks interactions'):
    prepared(days, 2, extend='day1')
  assert not (days / 'day2').exists()
  prepared(days, 1)
  with pytest.raises(
    ValueError, match=r'must not be the folder to prepare; .*Set --config.data.prepared_dir'
  ):
    prepared(days, 2, out='day1', extend='x/../day1')
  prepared(days, 2, extend='day1')
  before = contents(days / 'day2')
  with pytest.raises(
    ValueError, match=r'extend those of an earlier folder; .*Set --config.sids.ext'
  ):
    prepared(days, 2)
  assert contents(days / 'day2') == before
  # An earlier extension of one folder does not make up for another folder that is missing.
  with pytest.raises(ValueError, match=r'must be a prepared folder; .*nosuch lacks interactions'):
    prepared(days, 1, extend='nosuch')
  assert sorted(os.listdir(days / 'day1')) == sorted(
    ['interactions', 'tokenizer', 'texts', 'text_embeddings', 'cooccurrence_vectors', 'sids']
  )


def test_the_folder_of_a_sid_table_selects_one_of_several(days):
  first = prepared(days, 1)
  other = prepared(days, 1, codes=(16, 4), tfidf_width=5)
  before, after = sids_by_id(first), sids_by_id(other)
  with pytest.raises(
    ValueError, match=r'holds several folders of a stage: .*sids, .*sids-\w+\. Set'
  ):
    prepared(days, 2, extend='day1')
  for table, fields in ((before, {}), (after, {'codes': (16, 4), 'tfidf_width': 5})):
    folder = (other if fields else first).folder / 'sids'
    later = sids_by_id(prepared(days, 2, out=folder.name, extend=folder, **fields))
    stays = table.keys() & later.keys()
    assert {item: later[item] for item in stays} == {item: table[item] for item in stays}


def test_extended_and_independent_sids_share_a_prepared_folder(days):
  prepared(days, 1)
  plain = prepared(days, 2)
  extended = prepared(days, 2, extend='day1')
  assert sids_by_id(plain) != sids_by_id(extended)
  assert plain.folder / 'sids' != extended.folder / 'sids'
  assert sids_by_id(prepared(days, 2)) == sids_by_id(plain)


def published(tmp_path, items, raw='raw1', seed=0, **changes):
  rng = np.random.default_rng(seed)
  table = {
    name(n): [f'<{"ab"[level]}_{rng.integers(4)}>' for level in range(2)] for n in range(items)
  }
  (tmp_path / raw / 'sids.json').write_text(json.dumps(table | changes))
  return table


IMPORT = {'quantizer': 'import', 'table': 'sids.json', 'codes': (4, 4)}


@pytest.mark.parametrize('collisions', ['deduplicate', 'keep'])
def test_an_import_needs_no_vectors_and_its_written_table_can_be_imported(days, collisions):
  table = published(days, DAY_1)
  data = prepared(days, 1, collisions=collisions, **IMPORT)
  assert sorted(os.listdir(days / 'day1')) == ['interactions', 'sids', 'texts', 'tokenizer']
  for item, sid in sids_by_id(data).items():
    assert [f'<{"ab"[level]}_{code}>' for level, code in enumerate(sid[:2])] == table[item]
  assert data.sids.levels == (3 if collisions == 'deduplicate' else 2)
  assert (data.sids.sharing_items > 10) == (collisions == 'keep')
  again = IMPORT | {'table': str(days / 'day1/sids/table.json'), 'codes': data.sids.codes_per_level}
  other = prepared(days, 1, out='again', collisions='keep', **again)
  np.testing.assert_array_equal(other.sids.codes_IL, data.sids.codes_IL)


def test_an_imported_table_is_extended_from_its_file(days):
  published(days, DAY_1)
  first = sids_by_id(prepared(days, 1, **IMPORT))
  published(days, DAY_1, raw='raw2')
  with pytest.raises(ValueError, match=r'it lacks \d+: .*Complete the file'):
    prepared(days, 2, extend='day1', **IMPORT)
  published(days, DAY_2, raw='raw2', **{name(1): ['<a_3>', '<b_3>'], name(3): ['<a_3>', '<b_3>']})
  with pytest.raises(
    ValueError, match=r'must have the codes of sids.extend for its items; 2 items differ'
  ):
    prepared(days, 2, extend='day1', **IMPORT)
  table = published(days, DAY_2, raw='raw2')
  data = prepared(days, 2, extend='day1', **IMPORT)
  second = sids_by_id(data)
  for item, sid in second.items():
    assert first.get(item, sid) == sid
    assert [f'<{"ab"[level]}_{code}>' for level, code in enumerate(sid[:2])] == table[item]


def test_a_missing_table_is_rejected_before_the_first_stage(days):
  with pytest.raises(
    FileNotFoundError, match=r'sids.json must exist, also relative to .*raw1. Set --config'
  ):
    prepared(days, 1, **IMPORT)
  assert not (days / 'day1').exists()
