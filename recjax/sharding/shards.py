"""Shards as arrays of a host: which device holds which part of an array, and their exchange between hosts."""

from collections.abc import Sequence
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.sharding.mesh import AXES

Bounds = tuple[tuple[int, int], ...]  # (start, stop) along each dimension

_CHUNK_BYTES = 1 << 28  # of an array that `gathered` moves at a time


def bounds(x: jax.Array | jax.ShapeDtypeStruct) -> dict[jax.Device, Bounds]:
  """Returns the part of an array that each device holds; parts of two devices are equal or disjoint."""
  return {
    device: tuple(part.indices(n)[:2] for part, n in zip(index, x.shape, strict=True))
    for device, index in x.sharding.devices_indices_map(x.shape).items()
  }


def next_hosts(devices: Sequence[jax.Device], hosts: Sequence[str]) -> list[tuple[int, int]]:
  """Returns (from, to) for every position in the devices: a device and its like on the next host, around a ring.

  Args:
    devices: the devices of a mesh, in its order.
    hosts: name of the host of each process. If all have one host, each process counts as a host.

  Raises:
    ValueError: hosts have different numbers of devices.
  """
  is_one = len(set(hosts)) == 1
  groups: dict[object, list[int]] = {}
  for position in sorted(range(len(devices)), key=lambda n: (devices[n].process_index, n)):
    process = devices[position].process_index
    groups.setdefault(process if is_one else hosts[process], []).append(position)
  if len(sizes := {len(group) for group in groups.values()}) > 1:
    raise ValueError(
      f'copies in memory need hosts with equal numbers of devices; got {sorted(sizes)}. Set '
      '--config.checkpoint.memory_every=0'
    )
  rings = list(groups.values())
  pairs = zip(rings, [*rings[1:], rings[0]], strict=True)
  return [pair for ring in pairs for pair in zip(*ring, strict=True)]


def is_on_two_hosts(x: jax.Array | jax.ShapeDtypeStruct, hosts: Sequence[str]) -> bool:
  """Returns whether every part of an array is on two hosts or more; `hosts` as in `next_hosts`."""
  holders: dict[Bounds, set[object]] = {}
  is_one = len(set(hosts)) == 1
  for device, part in bounds(x).items():
    process = device.process_index
    holders.setdefault(part, set()).add(process if is_one else hosts[process])
  return all(len(found) > 1 for found in holders.values())


@functools.lru_cache(maxsize=4)
def _shift(mesh: jax.sharding.Mesh, specs: tuple[P, ...], pairs: tuple[tuple[int, int], ...]):
  def shift(arrays):
    return [jax.lax.ppermute(x, AXES, pairs) for x in arrays]

  return jax.jit(
    jax.shard_map(shift, mesh=mesh, in_specs=(list(specs),), out_specs=list(specs), check_vma=False)
  )


def shifted(
  arrays: Sequence[jax.Array], mesh: jax.sharding.Mesh, pairs: Sequence[tuple[int, int]]
) -> list[dict[Bounds, np.ndarray]]:
  """Moves every device's shard to another device.

  Args:
    arrays: arrays with a NamedSharding on the mesh.
    mesh: the mesh.
    pairs: (from, to), positions in the mesh.

  Returns:
    For each array, the shards that the devices of this process received, by their parts of the array.
  """
  devices = mesh.devices.flatten().tolist()
  source = {devices[to]: devices[start] for start, to in pairs}
  specs = tuple(x.sharding.spec for x in arrays)
  moved = _shift(mesh, specs, tuple(pairs))(list(arrays))
  found = []
  for x, received in zip(arrays, moved, strict=True):
    parts = bounds(x)
    found.append({parts[source[s.device]]: np.asarray(s.data) for s in received.addressable_shards})
  return found


@functools.lru_cache(maxsize=64)
def _sum(sharding: NamedSharding, dtype: str):
  def total(bits_NX):
    bits = jnp.sum(bits_NX, axis=0, dtype=bits_NX.dtype)
    kind = jnp.dtype(f'uint{8 * jnp.dtype(dtype).itemsize}')
    return jax.lax.bitcast_convert_type(bits.astype(kind), jnp.dtype(dtype))

  return jax.jit(total, out_shardings=sharding)


def gathered(x: jax.ShapeDtypeStruct, part: np.ndarray) -> jax.Array:
  """Makes an array from parts that are on different hosts; exact for every bit.

  All processes must call it together.

  Args:
    x: shape, dtype (of at most four bytes) and NamedSharding of the result.
    part: `[*x.shape]`, the elements that this process gives, and zeros. No element may be given twice.
  """
  mesh, kind = x.sharding.mesh, np.dtype(f'uint{8 * x.dtype.itemsize}')
  # Sums of unsigned numbers, of which one is not zero, are exact, also for negative zeros and NaN.
  bits = part.reshape(-1).view(kind).reshape(x.shape).astype(np.uint32)
  chosen = next(d for d in mesh.devices.flat if d.process_index == jax.process_index())
  position = mesh.devices.flatten().tolist().index(chosen)
  rows = NamedSharding(mesh, P(AXES))
  axis, cuts = _cuts(x)

  def chunk(start: int, stop: int) -> jax.Array:
    mine = bits[(slice(None),) * axis + (slice(start, stop),)] if x.shape else bits
    zeros = np.zeros((1, *mine.shape), np.uint32)

    def row(index: tuple[slice, ...]) -> np.ndarray:
      return mine[None] if (index[0].start or 0) == position else zeros

    stacked = jax.make_array_from_callback((mesh.size, *mine.shape), rows, row)
    return _sum(x.sharding, str(x.dtype))(stacked)

  chunks = [chunk(*pair) for pair in itertools.pairwise(cuts)]
  if len(chunks) == 1:
    return chunks[0]
  join = jax.jit(lambda parts: jnp.concatenate(parts, axis), out_shardings=x.sharding)
  return join(chunks)


def _cuts(x: jax.ShapeDtypeStruct) -> tuple[int, list[int]]:
  """Returns a dimension that is not sharded, and where to cut it into chunks of `_CHUNK_BYTES`."""
  spec = (*x.sharding.spec, *[None] * len(x.shape))
  whole = [axis for axis, n in enumerate(x.shape) if spec[axis] is None and n > 1]
  if not whole:
    return 0, [0, x.shape[0] if x.shape else 1]
  count = -(-math.prod(x.shape) * 4 // _CHUNK_BYTES)
  step = -(-x.shape[whole[0]] // count)
  return whole[0], [*range(0, x.shape[whole[0]], step), x.shape[whole[0]]]
