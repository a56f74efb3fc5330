"""One host's share of a log of a billion interactions: memory, and time to the first batch.

The log is random: users of 5 to 15 interactions, as train_items.npy and train_offsets.npy on a disk. A new process
opens it as one of --hosts hosts and assembles batches of examples that are far into the training. It does so from
mapped files, and from files that are read by range with a delay for each request, as from a bucket.
"""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np

from bench.own_memory import own_bytes
from recjax import config as config_lib
from recjax import train
from recjax.data import arrays
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences, offsets_of

FAR = 10**9  # index of an example beyond the end of any run
_CHUNK = 1 << 24
_BATCHES = 5


class _Delayed:
  """A file system whose ranges take `seconds` longer."""

  def __init__(self, fs, seconds: float):
    self._fs, self._seconds = fs, seconds
    self.bytes = 0

  def cat_file(self, name: str, start: int, end: int) -> bytes:
    time.sleep(self._seconds)
    self.bytes += end - start
    return self._fs.cat_file(name, start, end)


def write_log(folder: str, interactions: int, num_items: int) -> None:
  """Writes a random log of at least that many interactions."""
  rng = np.random.default_rng(0)
  offsets = offsets_of(rng.integers(5, 16, -(-interactions // 10), dtype=np.int8))
  np.save(os.path.join(folder, 'offsets.npy'), offsets)
  path = os.path.join(folder, 'items.npy')
  values = np.lib.format.open_memmap(path, 'w+', np.int32, (int(offsets[-1]),))
  for at in range(0, len(values), _CHUNK):
    block = values[at : at + _CHUNK]
    block[:] = rng.integers(0, num_items, len(block), dtype=np.int32)
  values.flush()


def _measure(
  config: config_lib.Config, folder: str, hosts: int, delay: float | None
) -> dict[str, float]:
  dataset, delayed = Dataset.load(config.prepared), []
  before = own_bytes()

  def opened(name: str):
    path = os.path.join(folder, name)
    if delay is None:
      return np.load(path, mmap_mode='r')
    ranged = arrays.Ranged(path)
    ranged._fs = _Delayed(ranged._fs, delay)
    delayed.append(ranged._fs)
    return ranged

  start, cpu_start = time.perf_counter(), time.process_time()
  log = Sequences(opened('items.npy'), opened('offsets.npy'))
  stream = train.make_stream(config, dataclasses.replace(dataset, train=log))
  stream = dataclasses.replace(stream, groups=-(-stream.groups // hosts) * hosts)
  ready = time.perf_counter() - start
  first = FAR // stream.examples_per_batch * stream.examples_per_batch
  read = functools.partial(stream.host_batch, host=hosts // 2, hosts=hosts)
  read(first)
  first_batch, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
  start = time.perf_counter()
  for n in range(1, _BATCHES):
    read(first + n * stream.examples_per_batch)
  examples = (_BATCHES - 1) * stream.examples_per_batch // hosts
  return {
    'units_of_an_epoch': max(part.units for part in stream.mixture.parts),
    'seconds_to_stream': ready,
    'seconds_to_first_batch': first_batch,
    'cpu_seconds_to_first_batch': cpu_seconds,
    'examples_per_sec_and_thread': examples / (time.perf_counter() - start),
    'own_gib_before': before / 2**30,
    'own_gib': own_bytes() / 2**30,
    'gib_read_by_range': sum(fs.bytes for fs in delayed) / 2**30,
  }


def measure(
  config: config_lib.Config, interactions: int, hosts: int, delay: float, scratch: str | None
) -> dict[str, dict[str, float]]:
  """Measures one host's share of a random log, from mapped files and by range.

  Args:
    config: a prepared config, whose items the log has.
    interactions: their number.
    hosts: number of hosts.
    delay: seconds that a range takes.
    scratch: a folder with room for 5 bytes an interaction. None: the system's.
  """
  results, context = {}, multiprocessing.get_context('spawn')
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    write_log(folder, interactions, Dataset.load(config.prepared).num_items)
    size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
    for name, seconds in (('mapped', None), (f'by range, {1000 * delay:g} ms each', delay)):
      with context.Pool(1) as pool:
        found = pool.apply(_measure, (config, folder, hosts, seconds))
      found['gib_of_the_log'] = size / 2**30
      results[f'{interactions:,} interactions, one of {hosts} hosts, {name}'] = found
  return results
