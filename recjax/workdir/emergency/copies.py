"""Copies of the train state in the memory of the hosts: saved, found again after a failure, and restored.

Every process keeps the shards of its devices, and those of the same devices of the next host that no other host has. So
the state is complete without any one host.
"""

import base64
import dataclasses
import itertools
import json
import logging
import math
import os
import pathlib
import shutil
import socket
from typing import Any
import uuid
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from recjax.runtime import distributed
from recjax.runtime.files import digest
from recjax.sharding import shards
from recjax.workdir.emergency import copy_files
from recjax.workdir.emergency.copy_files import Copy

log = logging.getLogger(__name__)

_KEPT = 2  # copies: a kill during a save must leave one that all processes have
_MOVED_BYTES = 1 << 30  # of the shards of a device that move to the next host at a time
_LIMIT = (1200, 'the limit of reading a checkpoint')  # to check the copies of this host


@dataclasses.dataclass(frozen=True)
class Found:
  """A complete copy: the same step of the same start on every host.

  Attributes:
    copies: the process that has read a copy, its host, and the copy.
  """

  copies: tuple[tuple[int, str, Copy], ...]

  @property
  def first(self) -> Copy:
    """One of the copies; they differ in their shards alone."""
    return self.copies[0][2]


class Copies:
  """The copies of one training.

  All processes must make the same calls in the same order.
  """

  def __init__(self, folder: str, run: str, abstract: Any, mesh: jax.sharding.Mesh):
    """Finds the hosts, and checks that the copies fit into the folder.

    Args:
      folder: `checkpoint.memory_folder`.
      run: names the training; another training has other copies.
      abstract: ShapeDtypeStructs of what is copied, with shardings on the mesh.
      mesh: the mesh.

    Raises:
      ValueError: the folder has too little room, or hosts have different numbers of devices.
    """
    self._root = pathlib.Path(folder).expanduser() / run
    self._mesh = mesh
    self._start = distributed.from_host0('start of the copies', uuid.uuid4().hex[:8])
    self._hosts = distributed.exchange('hosts of the copies', socket.gethostname())
    self._abstract = _named(abstract)
    self._pairs = shards.next_hosts(mesh.devices.flatten().tolist(), self._hosts)
    self._moved = [
      name
      for name, x in self._abstract.items()
      if len(self._hosts) > 1 and not shards.is_on_two_hosts(x, self._hosts)
    ]
    self._check_room()

  @property
  def _mine(self) -> pathlib.Path:
    return self._root / str(jax.process_index())

  def _check_room(self) -> None:
    need = 0
    for name, x in self._abstract.items():
      held = {p for d, p in shards.bounds(x).items() if d.process_index == jax.process_index()}
      shard = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      need += shard * len(held) * (2 if name in self._moved else 1)
    local = self._hosts.count(self._hosts[jax.process_index()])
    problem = ''
    try:
      self._mine.mkdir(parents=True, exist_ok=True)
      kept = sum(path.stat().st_size for path in self._root.rglob('*') if path.is_file())
      room = shutil.disk_usage(self._mine).free + kept
      if room < need * local * _KEPT:
        problem = (
          f'checkpoint.memory_folder must have room for {_KEPT} copies of the shards of this host, '
          f'{need * local * _KEPT / 2**30:.2f} GiB; {self._root.parent} on {socket.gethostname()} has '
          f'{room / 2**30:.2f} GiB. Set --config.checkpoint.memory_folder, or --config.checkpoint.memory_every=0'
        )
    except OSError as error:
      problem = (
        f'checkpoint.memory_folder must be a folder that can be written on every host; {error}. Set '
        '--config.checkpoint.memory_folder'
      )
    problems = [p for p in distributed.exchange('room for copies', problem) if p]
    if problems:
      raise ValueError(problems[0])

  def save(self, step: int, items: Any, meta: dict[str, Any], base: int | None) -> None:
    """Copies the state to the memory of this host; a failure is logged, and training goes on.

    Args:
      step: number of completed steps.
      items: a tree of arrays like `abstract`.
      meta: the fields of `checkpoints.Meta`.
      base: step of the newest checkpoint on disk.
    """
    arrays = _named(items)
    shapes = {name: (x.shape, str(x.dtype)) for name, x in arrays.items()}
    about = {'step': step, 'start': self._start, 'base': base, 'shapes': shapes, 'meta': meta}
    try:
      self._remove_old(step)
      copy_files.write(self._mine / str(step), self._shards(arrays), about)
    except OSError as error:
      log.warning('step %d is not copied to memory: %s; training goes on', step, error)

  def _shards(self, arrays: dict[str, jax.Array]):
    for name, x in arrays.items():
      parts = shards.bounds(x)
      own = {parts[s.device]: s.data for s in x.addressable_shards}
      for part, data in own.items():
        yield name, part, np.asarray(data)
    sizes = [
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in map(self._abstract.get, self._moved)
    ]
    groups = [int(n // _MOVED_BYTES) for n in itertools.accumulate(sizes)]
    for _, members in itertools.groupby(zip(groups, self._moved, strict=True), lambda m: m[0]):
      names = [name for _, name in members]
      found = shards.shifted([arrays[name] for name in names], self._mesh, self._pairs)
      for name, received in zip(names, found, strict=True):
        for part, data in received.items():
          yield name, part, data

  def _remove_old(self, step: int) -> None:
    """Removes all copies of this process but the newest ones, and what killed processes left."""
    if not self._mine.exists():
      return
    found = {path.name: path for path in self._mine.iterdir()}
    steps = sorted((int(name) for name in found if name.isdecimal()), reverse=True)
    kept = {str(n) for n in [n for n in steps if n < step][: _KEPT - 1]}
    for name in found.keys() - kept:
      shutil.rmtree(found[name])

  def find(self, steps: list[int], after: int) -> Found | None:
    """Returns the newest complete copy that fits; the hosts share the reading.

    Args:
      steps: the checkpoints on disk. A copy that was made after another one is outdated and not used.
      after: a copy must be of a later step.
    """
    me = jax.process_index()
    local = [p for p, host in enumerate(self._hosts) if host == self._hosts[me]]
    folders = sorted(path for path in self._root.glob('*/*') if path.name.isdecimal())
    wanted = [path for path in folders if int(path.name) > after]
    copies = map(copy_files.read, wanted[local.index(me) :: len(local)])
    text = json.dumps([dataclasses.asdict(copy) for copy in copies if copy is not None])
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    found = [
      (process, self._hosts[process], copy_files.from_json(copy))
      for process, part in enumerate(distributed.exchange('copies in memory', packed, *_LIMIT))
      for copy in json.loads(zlib.decompress(base64.b64decode(part)))
    ]
    names = {(copy.step, copy.start) for _, _, copy in found}
    for step, start in sorted(names, reverse=True):
      same = tuple(each for each in found if (each[2].step, each[2].start) == (step, start))
      if reason := self._misfit(same, steps):
        log.warning('the copy of step %d in memory is not used: %s', step, reason)
      else:
        return Found(same)
    return None

  def _misfit(self, copies: tuple[tuple[int, str, Copy], ...], steps: list[int]) -> str:
    """Returns why copies of one step cannot be used; empty: they can."""
    first = copies[0][2]
    if first.base is not None and first.base not in steps:
      return f'it was made after checkpoint {first.base}, which is gone'
    wanted = {name: (x.shape, str(x.dtype)) for name, x in self._abstract.items()}
    if first.shapes != wanted:
      return 'its arrays have other names, shapes or types'
    for name, (shape, _) in wanted.items():
      parts = {p for _, _, copy in copies for other, p, _ in copy.parts if other == name}
      if sum(math.prod(b - a for a, b in part) for part in parts) != math.prod(shape):
        return f'a part of {name} is on no host any more'
    return ''

  def restore(self, found: Found, abstract: Any) -> Any:
    """Returns the arrays of a copy with the shardings of `abstract`, a tree like that of the constructor.

    Arrays whose parts this process needs are all on its host are read there. Others come from the other hosts.
    """
    host = self._hosts[jax.process_index()]
    local, given = _sources(found, host, jax.process_index())
    arrays = _named(abstract)
    lacking = [name for name, x in arrays.items() if not _covers(local[name], x)]
    exchanged = distributed.exchange('arrays that a host lacks', json.dumps(lacking))
    moved = {name for part in exchanged for name in json.loads(part)}
    log.info('%d of %d arrays come from other hosts', len(moved), len(arrays))
    restored = {}
    for name, x in arrays.items():
      if name in moved:
        whole = tuple((0, n) for n in x.shape)
        restored[name] = shards.gathered(x, _assembled(name, whole, given[name], x.dtype))
      else:
        restored[name] = _on_devices(name, x, local[name])
    leaves = [restored[name] for name in arrays]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

  def remove(self) -> None:
    """Removes all copies of this training on this host."""
    shutil.rmtree(self._root, ignore_errors=True)


def run_name(folder: os.PathLike, first_start: Any) -> str:
  """Returns the name of a training's copies: a folder that is begun anew, or copied, has another one."""
  return digest([os.path.abspath(folder), first_start])


def _named(tree: Any) -> dict[str, Any]:
  return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


_Sources = dict[str, dict[shards.Bounds, tuple[Copy, int]]]  # by name and part: where it is


def _sources(found: Found, host: str, me: int) -> tuple[_Sources, _Sources]:
  """Returns the parts on this host, and those that this process gives to others: each has one giver."""
  local: _Sources = {name: {} for name in found.first.shapes}
  given: _Sources = {name: {} for name in found.first.shapes}
  taken = set()
  for process, where, copy in found.copies:
    for name, part, offset in copy.parts:
      if where == host:
        local[name].setdefault(part, (copy, offset))
      if (name, part) not in taken:
        taken.add((name, part))
        if process == me:
          given[name][part] = (copy, offset)
  return local, given


def _overlap(a: shards.Bounds, b: shards.Bounds) -> shards.Bounds:
  """Returns the common part; its size is 0 if there is none."""
  starts = [max(p[0], q[0]) for p, q in zip(a, b, strict=True)]
  return tuple(
    (start, max(start, min(p[1], q[1]))) for start, p, q in zip(starts, a, b, strict=True)
  )


def _size(part: shards.Bounds) -> int:
  return math.prod(stop - start for start, stop in part)


def _covers(sources: dict[shards.Bounds, Any], x: jax.ShapeDtypeStruct) -> bool:
  """Returns whether disjoint parts contain all that this process holds of an array."""
  needed = {p for d, p in shards.bounds(x).items() if d.process_index == jax.process_index()}
  return all(sum(_size(_overlap(part, s)) for s in sources) == _size(part) for part in needed)


def _assembled(
  name: str, part: shards.Bounds, sources: dict[shards.Bounds, tuple[Copy, int]], dtype: Any
) -> np.ndarray:
  """Returns a part of an array from the parts that hold its elements; zeros where there is none."""
  if part in sources:
    copy, offset = sources[part]
    return copy.read(name, part, offset)
  result = np.zeros([stop - start for start, stop in part], jnp.dtype(dtype))
  for source, (copy, offset) in sources.items():
    common = _overlap(part, source)
    if _size(common):
      to, start = (
        tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(common, whole, strict=True))
        for whole in (part, source)
      )
      result[to] = copy.read(name, source, offset)[start]
  return result


def _on_devices(
  name: str, x: jax.ShapeDtypeStruct, sources: dict[shards.Bounds, tuple[Copy, int]]
) -> jax.Array:
  """Makes an array whose parts that this process needs are all on its host."""

  def read(index: tuple[slice, ...]) -> np.ndarray:
    part = tuple(s.indices(n)[:2] for s, n in zip(index, x.shape, strict=True))
    return _assembled(name, part, sources, x.dtype)

  return jax.make_array_from_callback(x.shape, x.sharding, read)
