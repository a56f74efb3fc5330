"""Copies in memory: what is found again, what is never taken, and that bits are kept on any mesh."""

import shutil

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax.schema.run import Checkpoint, Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.emergency import copies as copies_lib
from recjax.workdir.emergency import copy_files
from recjax.workdir.emergency.copies import Copies

VALUES = {
  'w': np.arange(64, dtype=np.float32).reshape(8, 8),
  'moments': (np.arange(16, dtype=np.float32).astype(jnp.bfloat16),),
  'step': np.int32(7),
}


def tree_on(mesh: jax.sharding.Mesh, values=None):
  specs = {'w': P('fsdp', 'tensor'), 'moments': (P('fsdp'),), 'step': P()}
  put = lambda spec, x: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
  is_spec = lambda x: isinstance(x, P)  # noqa: E731
  return jax.tree.map(put, specs, VALUES if values is None else values, is_leaf=is_spec)


def abstract_of(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def opened(tmp_path):
  """Returns a function: sizes of the mesh → the copies of a training, and its state."""

  def of(data=2, fsdp=4, tensor=1):
    mesh = mesh_lib.make_mesh(Mesh(data=data, fsdp=fsdp, tensor=tensor))
    tree = tree_on(mesh)
    return Copies(str(tmp_path), 'run', abstract_of(tree), mesh), tree

  return of


META = {'examples_seen': 70}


def assert_equal(tree, expected=None):
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected or VALUES), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize('sizes', [(2, 4, 1), (8, 1, 1), (1, 2, 4)])
def test_the_newest_copy_is_restored_on_any_mesh(opened, sizes):
  copies, tree = opened()
  for step in (5, 7):
    copies.save(step, tree, META, base=None)
  after, other = opened(*sizes)
  found = after.find([], -1)
  assert (found.first.step, found.first.meta) == (7, META)
  restored = after.restore(found, abstract_of(other))
  assert_equal(restored)
  assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, other)
  assert after.find([], 7) is None  # not later than the checkpoint on disk
  after.remove()
  assert after.find([], -1) is None


def test_two_copies_are_kept_and_what_a_kill_left_is_removed(opened, tmp_path):
  copies, tree = opened()
  for step in (1, 2, 3):
    copies.save(step, tree, META, base=None)
  (tmp_path / 'run/0/.4.12345678.partial').mkdir()
  (tmp_path / 'run/0/9').mkdir()  # of an earlier start, which got further
  copies.save(5, tree, META, base=None)
  assert sorted(path.name for path in (tmp_path / 'run/0').iterdir()) == ['3', '5']


def test_a_damaged_outdated_or_foreign_copy_is_never_taken(opened, tmp_path, caplog):
  copies, tree = opened()
  copies.save(4, tree, META, base=None)
  copies.save(6, tree, META, base=2)
  assert copies.find([2], 2).first.step == 6
  # The checkpoints were rolled back to an earlier one.
  assert copies.find([1], 1).first.step == 4
  assert 'made after checkpoint 2, which is gone' in caplog.text
  newest = tmp_path / 'run/0/6'
  content = bytearray((newest / 'shards.bin').read_bytes())
  for damage in (content[:-1], bytes([content[0] ^ 1]) + content[1:], b''):
    (newest / 'shards.bin').write_bytes(damage)
    assert copies.find([2], 2).first.step == 4
  (newest / 'shards.bin').write_bytes(content)
  (newest / 'checksums.json').unlink()  # the process was killed before it wrote this file
  assert copies.find([2], 2).first.step == 4
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=4))
  wider = tree_on(mesh, VALUES | {'w': np.zeros((8, 16), np.float32)})
  assert Copies(str(tmp_path), 'run', abstract_of(wider), mesh).find([2], 2) is None
  assert 'its arrays have other names, shapes or types' in caplog.text
  assert Copies(str(tmp_path), 'other', abstract_of(tree), mesh).find([2], 2) is None


def test_steps_of_two_starts_are_not_mixed_and_a_lost_part_is_noticed(opened, tmp_path, caplog):
  copies, tree = opened()
  copies.save(6, tree, META, base=None)
  folder = tmp_path / 'run/0/6'
  whole = copy_files.read(folder)
  about = {'step': 6, 'base': None, 'shapes': whole.shapes, 'meta': META}
  shards = [(name, part, whole.read(name, part, offset)) for name, part, offset in whole.parts]
  halves = {0: shards[::2], 1: shards[1::2]}

  def written(starts):
    for process, half in halves.items():
      shutil.rmtree(tmp_path / f'run/{process}', ignore_errors=True)
      (tmp_path / f'run/{process}').mkdir()
      copy_files.write(tmp_path / f'run/{process}/6', half, about | {'start': starts[process]})
    return copies.find([], -1)

  found = written(['a', 'a'])  # each process has a part
  assert_equal(copies.restore(found, abstract_of(tree)))
  assert written(['a', 'b']) is None
  assert caplog.text.count('is on no host any more') == 2


def test_the_folder_must_have_room(opened, tmp_path, monkeypatch):
  usage = type('Usage', (), {'free': 100})
  monkeypatch.setattr(copies_lib.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(ValueError, match=r'room for 2 copies.*Set --config.checkpoint.memory_folder'):
    opened()
  with pytest.raises(ValueError, match=r'a folder of each host.*got .?gs://b.*memory_folder'):
    Checkpoint(memory_folder='gs://b')
  (tmp_path / 'file').touch()
  mesh = mesh_lib.make_mesh(Mesh())
  with pytest.raises(
    ValueError, match=r'a folder that can be written on every host.*memory_folder'
  ):
    Copies(str(tmp_path / 'file'), 'run', abstract_of(tree_on(mesh)), mesh)


def test_a_copy_that_cannot_be_written_does_not_end_the_training(opened, monkeypatch, caplog):
  copies, tree = opened()
  monkeypatch.setattr(
    copy_files.checksums, 'checksums', lambda *_: (_ for _ in ()).throw(OSError('full'))
  )
  copies.save(3, tree, META, base=None)
  assert 'step 3 is not copied to memory: full; training goes on' in caplog.text
  assert copies.find([], -1) is None
