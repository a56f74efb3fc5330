"""The files of a table: one file, a folder of parts, numbered files; missing and ambiguous files are rejected."""

from etils import epath
import pytest

from data_prep.sources import parts

FIELD = 'data.interactions_files'


def find(folder, *names, given=None):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith('/') else path.write_bytes(b'x')
  found = parts.find(epath.Path(folder), 'interactions', given, FIELD)
  return [path.relative_to(folder).as_posix() for path in map(epath.Path, found)]


SPARK = ('_SUCCESS', '._SUCCESS.crc', '.part-00000.parquet.crc', '_metadata')


@pytest.mark.parametrize(
  ('names', 'expected'),
  [
    ((), []),
    (('interactions.csv',), ['interactions.csv']),
    (('interactions.csv', 'interactions.csv.gz'), ['interactions.csv.gz']),
    (('interactions.tsv.zst',), ['interactions.tsv.zst']),
    (('interactions-1.csv', 'interactions-1.csv.gz'), ['interactions-1.csv.gz']),
    (
      ('interactions/a.csv', 'interactions/a.csv.zst', 'interactions/b.csv'),
      ['interactions/a.csv.zst', 'interactions/b.csv'],
    ),
    (('interactions.csv', 'interactions-old.csv', 'items-1.csv'), ['interactions.csv']),
    (
      (
        'interactions-00001-of-00002.parquet',
        'interactions-00000-of-00002.parquet',
        'items.parquet',
      ),
      ['interactions-00000-of-00002.parquet', 'interactions-00001-of-00002.parquet'],
    ),
    (
      ('interactions-1-of-2.csv', 'interactions-2-of-2.csv'),
      ['interactions-1-of-2.csv', 'interactions-2-of-2.csv'],
    ),
    (
      ('interactions-2024-02.csv.gz', 'interactions-2024-01.csv.gz', 'interactions.md'),
      ['interactions-2024-01.csv.gz', 'interactions-2024-02.csv.gz'],
    ),
    (
      tuple(
        f'interactions.parquet/{name}'
        for name in (*SPARK, 'part-1.snappy.parquet', 'part-0.parquet')
      ),
      ['interactions.parquet/part-0.parquet', 'interactions.parquet/part-1.snappy.parquet'],
    ),
    (('interactions/a.csv', 'interactions/README.md'), ['interactions/a.csv']),
    (
      (
        'interactions/day=2/p.parquet',
        'interactions/day=1/p.parquet',
        'interactions/_tmp/q.parquet',
      ),
      ['interactions/day=1/p.parquet', 'interactions/day=2/p.parquet'],
    ),
  ],
)
def test_find_returns_the_files_of_every_layout(tmp_path, names, expected):
  assert find(tmp_path, *names) == expected


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('data', ['data/train-0.parquet', 'data/train-1.parquet', 'data/val-0.parquet']),
    ('data/train-*.parquet', ['data/train-0.parquet', 'data/train-1.parquet']),
    ('data/train-?.parquet', ['data/train-0.parquet', 'data/train-1.parquet']),
    ('data/val-0.parquet', ['data/val-0.parquet']),
    ('da*', ['data/train-0.parquet', 'data/train-1.parquet', 'data/val-0.parquet']),
    ('nothing', []),
    ('nothing-*', []),
    ('[x]*.csv', ['[x]*.csv']),
  ],
)
def test_an_option_may_name_a_file_a_folder_or_a_glob(tmp_path, given, expected):
  names = (
    'data/train-1.parquet',
    'data/train-0.parquet',
    'data/val-0.parquet',
    'data/note.txt.md',
    '[x]*.csv',
  )
  assert find(tmp_path, *names, given=given) == expected
  assert find(tmp_path, given=str(tmp_path / given)) == expected


def test_a_glob_outside_the_last_path_part_is_rejected(tmp_path):
  with pytest.raises(ValueError, match=r"last part of a path; got 'a\*/b\.csv'"):
    find(tmp_path, given='a*/b.csv')


def test_a_link_to_an_enclosing_folder_is_not_followed(tmp_path):
  (tmp_path / 'interactions' / 'day').mkdir(parents=True)
  (tmp_path / 'interactions' / 'day' / 'all').symlink_to(tmp_path / 'interactions')
  assert find(tmp_path, 'interactions/day/a.csv') == ['interactions/day/a.csv']


@pytest.mark.parametrize('folder', ['a [b] *c', 'c?', '~x'])
def test_folders_with_glob_characters_are_read(tmp_path, folder):
  raw = tmp_path / folder
  raw.mkdir()
  names = [f'interactions-0000{n}-of-00002.csv' for n in range(2)]
  assert find(raw, *names) == names


@pytest.mark.parametrize(
  ('names', 'error', 'message'),
  [
    (
      ('interactions-00000-of-00003.parquet', 'interactions-00002-of-00003.parquet'),
      FileNotFoundError,
      r'^interactions-00001-of-00003\.parquet must be in .*, which holds 2 of 3 parts.*data\.raw_dir',
    ),
    (
      ('interactions/t-00001-of-00002.parquet',),
      FileNotFoundError,
      r'^t-00000-of-00002\.parquet must be in',
    ),
    (
      ('interactions-0-of-2.csv', 'interactions-1-of-2.csv', 'interactions-0-of-1.csv'),
      ValueError,
      'parts of one set; it holds parts of 1 and 2',
    ),
    (
      ('interactions.csv', 'interactions.parquet'),
      ValueError,
      r'one of interactions\.csv and interactions\.parquet',
    ),
    (('interactions.csv', 'interactions/a.csv'), ValueError, 'not both.*data.interactions_files'),
    (('interactions.parquet', 'interactions-0-of-1.parquet'), ValueError, 'not both'),
    (
      ('interactions-0-of-1.parquet', 'interactions-x.parquet'),
      ValueError,
      'must hold one table interactions',
    ),
    (
      ('interactions/a.csv', 'interactions/b.parquet'),
      ValueError,
      r'in one format; it holds a\.csv and b\.parquet',
    ),
    (
      ('interactions/_delta_log/0.json', 'interactions/a.parquet'),
      ValueError,
      'it is a Delta table',
    ),
    (('interactions/_temporary/0/a.parquet',), ValueError, 'the output of an unfinished job'),
  ],
)
def test_missing_parts_and_ambiguous_files_are_rejected(tmp_path, names, error, message):
  with pytest.raises(error, match=message) as caught:
    find(tmp_path, *names)
  assert '\n' not in str(caught.value)
