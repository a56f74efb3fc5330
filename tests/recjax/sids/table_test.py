import collections
import json
import math

import numpy as np
import pytest

from recjax.sids import table as table_lib


def _random_table(seed, items=200, collisions=True):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 5 if collisions else 50, (items, 3))
  counter = collections.Counter()
  rows = []
  for row in codes.tolist():
    rows.append([*row, counter[tuple(row)]])
    counter[tuple(row)] += 1
  size = 2 * max(counter.values())
  return table_lib.SidTable(np.array(rows, np.int32), (50, 50, 50, size), 'residual_kmeans')


def test_statistics_equal_counting():
  table = _random_table(0)
  groups = collections.Counter(tuple(row[:-1]) for row in table.codes_IL.tolist())
  shared = [n for n in groups.values() if n > 1]
  got = table.statistics()
  assert got['items'] == got['unique_sids'] == 200
  assert got['colliding_items'] == sum(shared)
  assert got['collision_groups'] == len(shared)
  assert got['largest_group'] == max(shared)
  for level in range(4):
    uses = collections.Counter(table.codes_IL[:, level].tolist()).values()
    entropy = -sum(n / 200 * math.log(n / 200) for n in uses)
    assert got['levels'][level]['used'] == len(uses)
    assert got['levels'][level]['perplexity'] == pytest.approx(math.exp(entropy), abs=1e-3)


def test_statistics_of_kept_collisions():
  codes = np.array([[0, 1], [0, 1], [1, 1]], np.int32)
  got = table_lib.SidTable(codes, (2, 2), 'q', collisions='keep').statistics()
  assert (got['unique_sids'], got['colliding_items'], got['largest_group']) == (2, 2, 2)


def test_load_returns_what_save_wrote(tmp_path):
  table = _random_table(1)
  table.save(tmp_path / 'sids')
  again = table_lib.SidTable.load(tmp_path / 'sids')
  np.testing.assert_array_equal(again.codes_IL, table.codes_IL)
  assert again.codes_IL.dtype == np.int32
  assert again.codes_per_level == table.codes_per_level
  assert again.code_space_hash == table.code_space_hash
  assert again.deduplicated and again.quantizer == 'residual_kmeans'
  assert sorted(p.name for p in (tmp_path / 'sids').iterdir()) == ['codes.npy', 'sids.json']


def test_saving_twice_gives_equal_bytes(tmp_path):
  _random_table(1).save(tmp_path / 'a')
  _random_table(1).save(tmp_path / 'b')
  for name in ('codes.npy', 'sids.json'):
    assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_the_code_space_hash_depends_on_quantizer_and_sizes_but_not_on_items():
  table = _random_table(2)
  fewer = table_lib.SidTable(table.codes_IL[:50], table.codes_per_level, table.quantizer)
  other = table_lib.SidTable(table.codes_IL, table.codes_per_level, 'other')
  wider = table_lib.SidTable(table.codes_IL, (51, 50, 50, 999), table.quantizer)
  assert fewer.code_space_hash == table.code_space_hash
  assert len({t.code_space_hash for t in (table, other, wider)}) == 3


@pytest.mark.parametrize(
  ('codes', 'message'),
  [
    ([[0, 0], [2, 0]], r'level 0 must be in \[0, 2\); item 1 has 2'),
    ([[0, 0], [1, -1]], r'level 1 .* item 1 has -1'),
    ([[0, 1], [0, 1]], 'unique rows; 1 rows repeat'),
    ([[0], [1]], r'\[items, 2 levels\]; got int32 \[2, 1\]'),
  ],
)
def test_invalid_codes_are_refused(codes, message):
  with pytest.raises(ValueError, match=message):
    table_lib.SidTable(np.array(codes, np.int32), (2, 2), 'q')


def test_another_integer_type_is_refused():
  with pytest.raises(ValueError, match='must be int32'):
    table_lib.SidTable(np.zeros((1, 2), np.int64), (2, 2), 'q')


def test_a_changed_description_is_refused(tmp_path):
  _random_table(3).save(tmp_path)
  path = tmp_path / 'sids.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'quantizer': 'another'}))
  with pytest.raises(ValueError, match='code_space_hash'):
    table_lib.SidTable.load(tmp_path)
  with pytest.raises(FileNotFoundError):
    table_lib.SidTable.load(tmp_path / 'nowhere')
