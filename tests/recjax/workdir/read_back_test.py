"""The first checkpoint of a workdir is read back, in batches."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import read_back
from recjax.workdir.checkpoints import Checkpoints, Meta

META = Meta(10, {'part': 'x'}, 'c', [], {})


def items():
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  sharded = jax.sharding.NamedSharding(mesh, P('fsdp', 'tensor'))
  params = {
    'a': jax.device_put(jnp.arange(64.0).reshape(8, 8), sharded),
    'b': {'c': jax.device_put(jnp.arange(12.0), mesh_lib.replicated(mesh))},
    'd': jax.device_put(jnp.ones((4, 4), jnp.bfloat16), sharded),
  }
  return {'params': params, 'train': {'step': jnp.int32(1), 'opt_state': (jnp.ones(3), ())}}


def save(workdir):
  with Checkpoints(workdir) as checkpoints:
    checkpoints.save(1, items(), META, None)
    return checkpoints.folder / '1'


def test_every_parameter_is_read_once_in_batches(tmp_path, monkeypatch):
  folder = save(tmp_path)
  restore, restored = ocp.PyTreeCheckpointer.restore, []

  def recorded(self, *args, **kwargs):
    tree = restore(self, *args, **kwargs)
    restored.append(read_back._arrays(tree))
    return tree

  monkeypatch.setattr(ocp.PyTreeCheckpointer, 'restore', recorded)
  monkeypatch.setattr(read_back, '_BATCH_BYTES', 300)
  read_back.read_back(folder, read_back.abstract(items()))
  assert [len(arrays) for arrays in restored] == [2, 1]
  expected = jax.tree.leaves(items()['params'])
  for got, want in zip([x for arrays in restored for x in arrays], expected, strict=True):
    np.testing.assert_array_equal(got, want)
    assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda t: t['params'].update(a=jnp.zeros((8, 4))), r'params/a must be an array .*8, 4.*8, 8'),
    (lambda t: t['params'].update(b={'x': jnp.zeros(12)}), r'params/b/x must be .*got None'),
    (lambda t: t['train'].update(step=jnp.float32(1)), r'train/step must be .*float32.*int32'),
  ],
)
def test_a_missing_or_different_array_is_named(tmp_path, change, message):
  folder, other = save(tmp_path), items()
  change(other)
  with pytest.raises(ValueError, match=message):
    read_back.read_back(folder, read_back.abstract(other))


def test_the_first_save_of_a_workdir_is_read_back_and_no_other(tmp_path, monkeypatch):
  read = []
  monkeypatch.setattr(read_back, 'read_back', lambda folder, _: read.append(folder.name))
  for steps in ((1, 2), (3,)):
    with Checkpoints(tmp_path, 2) as checkpoints:
      for step in steps:
        checkpoints.save(step, items(), META, None)
  assert read == ['1']


def test_full_device_memory_does_not_discard_the_checkpoint(tmp_path, monkeypatch, caplog):
  def fails(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')

  monkeypatch.setattr(read_back, 'read_back', fails)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, items(), META, None)
    assert checkpoints.latest_step() == 1
  assert 'checkpoint 1 is not read back: the device memory is full' in caplog.text


# After one failed array, Orbax closes the event loop that the reads of other arrays still call.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_checkpoint_that_cannot_be_read_back_ends_the_run(tmp_path):
  workdir = tmp_path / 'lr=[0.1]'  # Orbax takes the brackets for a pattern and loses the arrays
  tree = {'params': {'a': jnp.ones(4)}, 'train': {'step': jnp.int32(1)}}
  with Checkpoints(workdir) as checkpoints:
    with pytest.raises(
      OSError, match=r'checkpoint 1 was written .*cannot be read back: .*--workdir'
    ) as e:
      checkpoints.save(1, tree, META, None)
    assert 'tensorstore_spec' not in str(e.value)
    assert checkpoints.latest_step() is None
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.latest_step() is None
