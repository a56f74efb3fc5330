"""Delimited text: separators that are set or detected, compressed files, cells in other encodings."""

import gzip

from etils import epath
import pyarrow as pa
import pytest

from data_prep.sources import delimited, tables

REQUIRED = {'item': 'data.item_column'}
TEXT = 'item{0}title{0}price\n007{0}"a, b; c | d\te"{0}1,5\n8{0}x{0}\n'


def read(path, separator=None):
  rows = tables.read([path], ('item', 'title', 'price'), REQUIRED, separator)
  return {name: values.to_pylist() for name, values in rows.columns.items()}


@pytest.mark.parametrize('mark', delimited.SEPARATORS)
@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('start', ['', '\ufeff'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_separators_are_detected_or_set(tmp_path, mark, given, start, end):
  path = epath.Path(tmp_path) / 't.csv'
  text = TEXT.format(mark).replace('1,5', '1.5' if mark == ',' else '1,5')
  path.write_bytes((start + text).replace('\n', end).encode())
  assert read(path, mark if given else None) == {
    'item': ['007', '8'],
    'title': ['a, b; c | d\te', 'x'],
    'price': ['1.5' if mark == ',' else '1,5', ''],
  }


def test_the_separator_with_most_wanted_names_is_chosen(tmp_path):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_text('item;a,b,c,d,e;title\n1;2;3\n')
  assert read(path) == {'item': ['1'], 'title': ['3']}
  path.write_text('item\n1\n')
  assert read(path) == {'item': ['1']}
  path.write_text('other;name\n1;2\n')
  with pytest.raises(ValueError, match=r"must have a column 'item'; it has 'other', 'name'"):
    read(path)


def test_a_separator_of_several_characters_is_rejected(tmp_path):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_text('item~title\n1~2\n')
  assert read(path, '~') == {'item': ['1'], 'title': ['2']}
  path.write_text('item\ttitle\n1\t2\n')
  for spelled in ('\t', '\\t', 'tab'):
    assert read(path, spelled) == {'item': ['1'], 'title': ['2']}
  for wrong in ('::', '', 'a', '"', '\n', '·'):
    with pytest.raises(ValueError, match=r'data\.separator must be one character.*--config\.data'):
      read(path, wrong)


@pytest.mark.parametrize('members', [1, 3])
def test_a_gzip_file_of_several_members_is_read(tmp_path, members):
  path = epath.Path(tmp_path) / 't.csv.gz'
  rows = [f'{n},title {n},\n' for n in range(30)]
  pieces = [
    ''.join(rows[n * 30 // members : (n + 1) * 30 // members]).encode() for n in range(members)
  ]
  path.write_bytes(b''.join(map(gzip.compress, (b'item,title,price\n', *pieces))))
  assert read(path)['item'] == [str(n) for n in range(30)]


def test_zstd_files_are_read_and_damaged_ones_rejected(tmp_path):
  path = epath.Path(tmp_path) / 't.csv.zst'
  whole = pa.compress(TEXT.format(';').encode() * 1, 'zstd', asbytes=True)
  path.write_bytes(whole)
  assert read(path)['item'] == ['007', '8']
  path.write_bytes(whole[:-5])
  with pytest.raises(ValueError, match=r't\.csv\.zst: (the zstd file must be complete|must )'):
    read(path)
  path.write_bytes(b'item,title\n1,2\n')
  with pytest.raises(ValueError, match=r't\.csv\.zst: the zstd file must be complete'):
    read(path)


def test_descriptive_cells_need_not_be_utf8(tmp_path):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_bytes(b'item,title\n1,Caf\xe9\n2,\xff\n')
  rows = tables.read([path], ('item', 'title'), REQUIRED, loose=('title',))
  assert rows.columns['title'].to_pylist() == [b'Caf\xe9', b'\xff']
  with pytest.raises(ValueError, match=r't\.csv:2: must be text in UTF-8'):
    read(path)


@pytest.mark.parametrize(
  ('content', 'line'),
  [
    ('item,title\n1,"x\n2,y\n', 2),
    ('item,title\n1,x\n"2\n,y', 3),
    ('item,title\n1,"x\ny"\n2,"""z\n', 4),
    ('item,title\n1,x\n2,"', 3),
  ],
)
@pytest.mark.parametrize('name', ['t.csv', 't.csv.zst'])
def test_a_quote_that_is_never_closed_is_refused(tmp_path, content, line, name):
  path = epath.Path(tmp_path) / name
  packed = pa.compress(content.encode(), 'zstd', asbytes=True)
  path.write_bytes(packed if name.endswith('.zst') else content.encode())
  with pytest.raises(ValueError, match=rf':{line}: a quote \("\) that opens a cell must be closed'):
    read(path)


@pytest.mark.parametrize(
  'content', ['item\n"1"', 'item\n1"', 'item\n"1"\n\n', 'item\r\n"1"\r\n', 'item\r1\r']
)
def test_every_ending_of_a_table_is_read(tmp_path, content):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_bytes(content.encode())
  assert read(path)['item'] in (['1'], ['1"'])


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (TEXT.encode('utf-16'), 'it is text in UTF-16. Convert it to UTF-8'),
    (TEXT.encode('utf-16-le'), 'it holds zero bytes, as UTF-16 does'),
    (gzip.compress(b'item', mtime=0), 'it is compressed by gzip. Let its name end in .gz'),
    (b'PAR1\0\0', 'it is Parquet. Let its name end in .parquet'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'it is a pointer of Git LFS'),
    (b'<!DOCTYPE html>\n', 'it is a web page'),
  ],
)
def test_a_file_of_another_format_is_named_as_one(tmp_path, content, message):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf't\.csv:1: must be text in UTF-8; {message}'):
    read(path)


def test_spaces_separate_cells_if_the_config_says_so(tmp_path):
  path = epath.Path(tmp_path) / 't.csv'
  path.write_text('item title\n1 "a b"\n')
  assert read(path, ' ') == {'item': ['1'], 'title': ['a b']}
