"""A bucket gs:// in the memory of a test, which records the ranges that are read."""

from collections.abc import Iterator
import contextlib
from typing import ClassVar

from etils.epath import backend
import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry


class Bucket(MemoryFileSystem):
  """The file system of gs:// paths."""

  protocol = ('gs', 'gcs')
  cachable = False
  store: ClassVar = {}
  pseudo_dirs: ClassVar = ['']
  ranges: ClassVar = []  # (path, start, end) of every range

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).replace('gs://', '/').replace('//', '/'))

  def cat_file(self, path, start=None, end=None, **options):
    self.ranges.append((path, start, end))
    return super().cat_file(path, start, end, **options)


@contextlib.contextmanager
def fake() -> Iterator[Bucket]:
  """Makes gs:// paths those of an empty bucket, for epath and fsspec alike."""
  before = {name: _registry.get(name) for name in Bucket.protocol}
  for name in Bucket.protocol:
    fsspec.register_implementation(name, Bucket, clobber=True)
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  Bucket.store.clear()
  Bucket.ranges.clear()
  Bucket.pseudo_dirs[:] = ['']
  try:
    yield Bucket()
  finally:
    for name, known in before.items():
      _registry.pop(name, None)
      if known is not None:
        _registry[name] = known
    Bucket.store.clear()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
