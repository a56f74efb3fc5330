"""Shards of arrays by device, their way to the next host, and arrays from parts of several processes."""

import types

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import shards


def on_processes(*processes: int) -> list[types.SimpleNamespace]:
  return [types.SimpleNamespace(process_index=process) for process in processes]


def test_a_device_sends_to_its_like_on_the_next_host():
  pairs = shards.next_hosts(on_processes(0, 0, 1, 1, 2, 2), ['a', 'b', 'c'])
  assert sorted(pairs) == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 0), (5, 1)]
  # Two processes a host: never to the other process of the same host.
  pairs = shards.next_hosts(on_processes(0, 2, 1, 3), ['a', 'a', 'b', 'b'])
  assert sorted(pairs) == [(0, 1), (1, 0), (2, 3), (3, 2)]
  # One host alone, as launch.local simulates several: a process counts as a host.
  assert shards.next_hosts(on_processes(1, 0), ['a', 'a']) == [(1, 0), (0, 1)]
  with pytest.raises(ValueError, match=r'equal numbers of devices; got \[1, 2\].*memory_every=0'):
    shards.next_hosts(on_processes(0, 0, 1), ['a', 'b'])


def sharded(x: np.ndarray, mesh: jax.sharding.Mesh, *spec: object) -> jax.Array:
  return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def test_shards_arrive_as_parts_of_their_array():
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=4))
  x = np.arange(64, dtype=np.float32).reshape(8, 8)
  arrays = [sharded(x, mesh, 'fsdp', None), sharded(x.astype(jnp.bfloat16), mesh, None, 'fsdp')]
  pairs = [(n, (n + 1) % 8) for n in range(8)]
  for array, received in zip(arrays, shards.shifted(arrays, mesh, pairs), strict=True):
    assert len(received) == 4
    for part, data in received.items():
      rows, columns = (slice(*pair) for pair in part)
      np.testing.assert_array_equal(data, np.asarray(array)[rows, columns])


@pytest.mark.parametrize('chunk', [1 << 28, 64])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'uint8'])
def test_an_array_of_parts_has_the_same_bits(dtype, chunk, monkeypatch):
  monkeypatch.setattr(shards, '_CHUNK_BYTES', chunk)
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=4))
  x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
  x[0, :3] = -0.0, np.nan, np.inf
  x = np.nan_to_num(x, posinf=7).astype(dtype) if 'int' in dtype else x.astype(jnp.dtype(dtype))
  for spec, value in ((P(None, 'fsdp'), x), (P(), x[0, 0]), (P('fsdp'), x.T.copy())):
    to = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=NamedSharding(mesh, spec))
    found = shards.gathered(to, np.asarray(value))
    assert found.sharding == to.sharding and found.dtype == value.dtype
    assert np.asarray(found).tobytes() == value.tobytes()
