"""Parts of an output file: kept after a kill, removed for another identity, never taken for whole when damaged."""

import json

import pytest

from recjax.runtime import lock
from recjax.workdir.parts import Parts


def join(paths, f):
  f.write(b''.join(path.read_bytes() for path in paths))


def killed(out, identity, count):
  """Writes some parts, as a command that is killed then."""
  parts = Parts(out, identity)
  with parts.opened({'rows': 3}) as done:
    for number in range(done, count):
      parts.write(number, b'%d\n' % number)
  return done


def test_whole_parts_are_kept_and_joined(tmp_path):
  out, identity = tmp_path / 'made' / 'out', {'a': {'b': 1}}
  assert Parts(out, identity).recorded() is None
  assert killed(out, identity, 2) == 0
  assert not out.exists()
  assert Parts(out, identity).recorded() == {'rows': 3}
  assert killed(out, identity, 3) == 2
  parts = Parts(out, identity)
  with parts.opened({'rows': 3}) as done:
    assert done == 3
    parts.join(3, join)
  assert out.read_bytes() == b'0\n1\n2\n'
  assert [path.name for path in out.parent.iterdir()] == ['out']


def test_a_damaged_part_and_those_after_it_are_written_again(tmp_path):
  out = tmp_path / 'out'
  killed(out, {}, 4)
  folder = tmp_path / '.out.parts'
  part = sorted(folder.glob('*.part'))[2]
  part.write_bytes(b'')
  (folder / '.000003.2.part.abc.partial').write_bytes(b'3')
  with Parts(out, {}).opened({}) as done:
    assert done == 2
    assert sorted(path.name for path in folder.glob('*part*')) == ['000000.2.part', '000001.2.part']


@pytest.mark.parametrize('damage', [False, True])
def test_parts_of_another_identity_are_removed_and_the_difference_is_named(
  tmp_path, caplog, damage
):
  out = tmp_path / 'out'
  killed(out, {'histories': 'x', 'k': 3}, 2)
  if damage:
    (tmp_path / '.out.parts' / 'progress.json').write_text('{"identity": ')
  assert Parts(out, {'histories': 'y', 'k': 3}).recorded() is None
  with Parts(out, {'histories': 'y', 'k': 3}).opened({}) as done:
    assert done == 0
  named = 'histories, k' if damage else 'histories'
  assert (
    f'{out}: starting anew; the finished parts of an earlier command differ in {named}'
    in caplog.text
  )
  assert json.loads((tmp_path / '.out.parts' / 'progress.json').read_text())['facts'] == {}


def test_one_process_at_a_time_writes_a_file(tmp_path):
  out = tmp_path / 'out'
  second = Parts(out, {}).opened({})
  with Parts(out, {}).opened({}), pytest.raises(lock.Held, match='--out'):
    second.__enter__()
