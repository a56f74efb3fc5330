"""Counts the page faults of large allocations, and their huge pages, in processes of their own."""

import pathlib
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


_HUGE = """
import re, sys
from recjax.runtime import heap
if sys.argv[1] == 'kept':
  heap.use_one()
  heap.keep('cpu')
block = b"x" * 100_000_000
with open('/proc/self/smaps') as file:
  print(sum(int(kb) for kb in re.findall(r'AnonHugePages: +(\\d+) kB', file.read())))
"""
_SETTING = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def number(program: str, kind: str) -> int:
  command = [sys.executable, '-c', program, kind]
  return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='the allocator of glibc')
def test_freed_memory_is_used_again_without_page_faults():
  # 100 with pages of 2 MB, 49,000 with those of 4 kB
  assert 50 + 5 * number(_FAULTS, 'kept') < number(_FAULTS, 'freed')


@pytest.mark.skipif(
  not _SETTING.exists() or '[madvise]' not in _SETTING.read_text(),
  reason='Linux gives huge pages to all or to none',
)
def test_the_kept_heap_has_huge_pages():
  assert number(_HUGE, 'freed') == 0
  assert number(_HUGE, 'kept') > 50_000  # kB, of 98,000; memory may be fragmented


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
