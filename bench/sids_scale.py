"""Time and memory of semantic IDs for catalogues of millions of items: the part `scale` of `bench.sids`.

Every size runs in a process of its own. The vectors are clustered and lie in a file on the disk, which is
memory-mapped. Peak memory is that of the process's own pages (RssAnon of Linux, read every 20 ms): pages of mapped
files are in the page cache, which the system takes back when it needs memory.
"""

from collections.abc import Iterator
import contextlib
import multiprocessing
import pathlib
import threading
import time
from typing import Any

from etils import epath
import numpy as np

from bench.own_memory import own_bytes
from recjax.schema.sids import Rqvae
from recjax.sids import published, quality
from recjax.sids.quantizers import collisions, residual_kmeans, rqvae
from recjax.sids.table import SidTable
from recjax.sids.vectors import Vectors

WIDTH = 384
CODES = (256, 256, 256)
_CLUSTERS = 20_000
_CHUNK = 100_000
_GIB = 2**30


class OwnMemory:
  """Measures wall time, CPU time and the peak of the process's own pages, part by part."""

  def __init__(self):
    self.parts: dict[str, dict[str, float]] = {}

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Measures the body of a `with` statement; GiB are the whole process's, not the growth."""
    peak, ended = [own_bytes()], threading.Event()

    def watch() -> None:
      while not ended.wait(0.02):
        peak.append(max(peak.pop(), own_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    ended.set()
    watcher.join()
    self.parts[name] = {
      'seconds': round(seconds, 1),
      'cpu_seconds': round(cpu_seconds, 1),
      'peak_gib': round(peak[0] / _GIB, 2),
    }


def write_vectors(path: pathlib.Path, num_items: int, seed: int = 0) -> None:
  """Writes unit vectors float32 `[num_items, 384]` around 20,000 centres, whose sizes follow Zipf's law."""
  rng = np.random.default_rng(seed)
  centres = rng.standard_normal((_CLUSTERS, WIDTH), np.float32)
  shares = 1 / np.arange(10, 10 + _CLUSTERS)
  ends = np.cumsum(shares / shares.sum())
  vectors_ID = np.lib.format.open_memmap(path, 'w+', np.float32, (num_items, WIDTH))
  for begin in range(0, num_items, _CHUNK):
    count = min(_CHUNK, num_items - begin)
    chosen = np.minimum(np.searchsorted(ends, rng.random(count)), _CLUSTERS - 1)
    rows = centres[chosen] + 0.7 * rng.standard_normal((count, WIDTH), np.float32)
    vectors_ID[begin : begin + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  vectors_ID.flush()


def _measure(path: pathlib.Path, num_items: int, with_rqvae: bool) -> dict[str, Any]:
  mapped = np.load(path, mmap_mode='r')
  rows = None if num_items == len(mapped) else np.arange(num_items) % len(mapped)
  vectors, meter = Vectors([mapped], rows), OwnMemory()
  with meter.part('residual k-means: fit'):
    quantizer = residual_kmeans.fit(vectors, CODES, 0)
  with meter.part('residual k-means: assign'):
    codes_IL = quantizer.assign(vectors)
  with meter.part('collisions: de-duplication, checks, statistics'):
    codes_IL, size = collisions.deduplicate(codes_IL)
    table = SidTable(
      codes_IL, (*CODES, size), 'residual_kmeans', 'deduplicate', quantizer.fingerprint
    )
    statistics = table.statistics()
  with meter.part('quality'):
    found = quality.assess(table, vectors, quantizer, [])
  with meter.part('table.json'):
    published.write(path.parent / published.FILE, list(map(str, range(num_items))), codes_IL)
  (path.parent / published.FILE).unlink()
  if with_rqvae:
    options = Rqvae(hidden=(64,), batch_size=1024, autoencoder_epochs=0, epochs=1)
    with meter.part('RQ-VAE: one epoch, hidden (64,)'):
      rqvae.fit(vectors, CODES, options, 0)
  return {
    'items': num_items,
    'distinct_vectors': len(mapped),
    'colliding_items': statistics['colliding_items'],
    'variance_left': found['reconstruction_error'][-1],
    'parts': meter.parts,
  }


def measure(scratch: epath.Path, sizes: list[int], disk_gb: float, with_rqvae: bool) -> list[Any]:
  """Measures catalogues of these sizes, one process each; the file of vectors is removed at the end.

  Args:
    scratch: a local folder.
    sizes: numbers of items.
    disk_gb: the size of the largest file of vectors. A larger catalogue repeats its vectors.
    with_rqvae: whether an RQ-VAE is trained too.
  """
  results = []
  for num_items in sizes:
    path = pathlib.Path(scratch) / 'vectors.npy'
    write_vectors(path, min(num_items, int(disk_gb * 1e9 / (4 * WIDTH))))
    try:
      with multiprocessing.get_context('spawn').Pool(1) as pool:
        results.append(pool.apply(_measure, (path, num_items, with_rqvae)))
    finally:
      path.unlink()
    print(_text(results[-1]), flush=True)
  return results


def _text(result: dict[str, Any]) -> str:
  lines = [
    f'{result["items"]:,} items x {WIDTH} ({result["distinct_vectors"]:,} distinct), codes {CODES}: '
    f'{result["colliding_items"]:,} colliding, {result["variance_left"]:.1%} of the variance left'
  ]
  for name, part in result['parts'].items():
    lines.append(
      f'  {name:48} {part["seconds"]:7.1f} s  {part["cpu_seconds"]:7.1f} CPU s  {part["peak_gib"]:5.2f} GiB'
    )
  return '\n'.join(lines)
