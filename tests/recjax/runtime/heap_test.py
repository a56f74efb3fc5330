"""Counts the page faults of large allocations, in a process of its own."""

import subprocess
import sys

import pytest

from recjax.runtime import heap

_FAULTS = """
import resource, sys
from recjax.runtime import heap
if sys.argv[1] == 'kept':
  heap.use_one()
  heap.keep('cpu')
def allocate():
  for _ in range(5):
    b"x" * 40_000_000
allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
  command = [sys.executable, '-c', _FAULTS, kind]
  return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='the allocator of glibc')
def test_freed_memory_is_used_again_without_page_faults():
  assert 50 + 5 * faults('kept') < faults(
    'freed'
  )  # 100 with pages of 2 MB, 49,000 with those of 4 kB


@pytest.mark.parametrize(
  ('platforms', 'packages', 'found'),
  [
    ('cpu', ('libtpu',), False),
    ('cuda,cpu', (), True),
    (None, (), False),
    (None, ('jax_plugins',), True),
    (None, ('libtpu',), True),
  ],
)
def test_an_accelerator_is_looked_for_without_starting_it(monkeypatch, platforms, packages, found):
  monkeypatch.setattr(heap.importlib.util, 'find_spec', lambda name: name in packages or None)
  assert heap.has_accelerator(platforms) is found
