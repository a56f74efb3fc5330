"""Ranges of users and the moments of a split by time, by brute force."""

import numpy as np
import pyarrow as pa
import pytest

from data_prep.beam import blocks, parts, ranges, splitting

NAMES = ['', 'B', 'a', 'ab', 'b', 'z', 'É', 'é', '￿', '\U0001f600']


def block(rows=200, seed=0):
  rng = np.random.default_rng(seed)
  users = rng.integers(0, len(NAMES), rows).astype(np.int32)
  zeros = np.zeros(rows, np.int32)
  return blocks.Block(
    pa.array(NAMES, pa.large_string()),
    None,
    users,
    zeros,
    rng.integers(0, 9, rows),
    np.arange(rows),
  )


@pytest.mark.parametrize('number', [1, 3, 50])
def test_every_row_is_in_the_range_of_its_user(number):
  whole = block()
  borders = ranges.borders([ranges.sample(whole)], [len(whole)], number)
  assert borders == sorted(set(borders)) and len(borders) < number
  rows = []
  for n, part in ranges.scatter(whole, borders):
    part = blocks.of_arrays(parts.from_bytes(parts.to_bytes(part.arrays())))
    names = [part.user_ids[user].as_py() for user in part.users.tolist()]
    assert names == [NAMES[user] for user in whole.users[part.rows].tolist()]
    low, high = ([None, *borders][n], [*borders, None][n])
    assert all((low is None or low <= name) and (high is None or name < high) for name in names)
    rows += part.rows.tolist()
  assert sorted(rows) == list(range(200))


def test_ids_that_are_alike_meet_in_one_range():
  ids = sorted(['Ab', 'ab', ' ab', 'AB ', 'é', 'É', 'x', 'y', 'Z', 'z'])
  found = dict(ranges.scatter_alike(pa.array(ids, pa.large_string()), ['Z', 'b', 'x']))
  place = {name: n for n, part in found.items() for name in part.to_pylist()}
  assert sorted(place) == ids and len(found) > 1
  for one in ids:
    for other in ids:
      if one.strip().lower() == other.strip().lower():
        assert place[one] == place[other]


@pytest.mark.parametrize('span', [3, 50, 10_000])
def test_the_target_of_a_rank_is_that_of_a_sort(span, monkeypatch):
  monkeypatch.setattr(splitting, 'SAMPLE', 5)
  rng = np.random.default_rng(span)
  sizes = (40, 1, 0, 200, 3)
  rows = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])
  times = [rng.integers(-span, span, size) for size in sizes]
  every = sorted(
    (int(t), int(r))
    for part, numbers in zip(times, rows, strict=True)
    for t, r in zip(part, numbers, strict=True)
  )
  samples = [splitting.sample(part) for part in times]
  for rank in (0, 1, 100, len(every) - 1):
    low, high = splitting.bracket(samples, sizes, rank)
    found = [
      splitting.keys(part, numbers, low, high) for part, numbers in zip(times, rows, strict=True)
    ]
    assert splitting.key_of_rank(found, rank) == every[rank]
    if span == 10_000:
      assert sum(len(part['times']) for part in found) < len(every)


def test_a_part_is_complete_with_its_facts_and_its_size(tmp_path):
  work = parts.Work(str(tmp_path), 'a')
  texts = pa.array(NAMES, pa.large_string()).slice(2, 5)
  work.write('x', parts.text_arrays('ids', texts) | {'n': np.arange(3)}, {'rows': 3})
  assert work.facts('x') == {'rows': 3}
  assert parts.texts_of('ids', work.read('x')).to_pylist() == NAMES[2:7]
  assert list(work.read('x', ('n',))) == ['n']
  assert parts.Work(str(tmp_path), 'b').facts('x') is None
  assert not work.are_complete(['x', 'y'])
  path = tmp_path / 'x.npz'
  path.write_bytes(path.read_bytes()[:-1])
  assert work.facts('x') is None
  with pytest.raises(ValueError, match=r'x\.json must be complete after its pipeline'):
    work.need('x')


def test_pieces_are_read_by_range(tmp_path):
  work = parts.Work(str(tmp_path), 'a')
  for name, numbers in (('x', (2, 0)), ('y', (2,))):
    pieces = ((n, {'values': np.arange(n) + len(name)}) for n in numbers)
    work.write(name, *parts.joined(pieces))
  assert not list(tmp_path.glob('*.npz')) and work.are_complete(['x', 'y'])
  places = work.places(['x', 'y'], 3)
  assert [[name for name, *_ in found] for found in places] == [['x'], [], ['x', 'y']]
  assert [piece['values'].tolist() for piece in work.pieces(places[2])] == [[1, 2], [1, 2]]
  path = tmp_path / 'y.pieces'
  content = path.read_bytes()
  at = content.index(b'values.npy') + 150
  path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
  with pytest.raises(ValueError, match=r'y\.pieces must be a complete part; .* Remove'):
    list(work.pieces(places[2]))
  path.write_bytes(content[:-1])
  assert work.facts('y') is None
