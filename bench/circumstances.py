"""What measured figures depend on, and how they are printed and written."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from absl import flags
import jax

from recjax.runtime.files import code_commit

# A setting of glibc's malloc, from which XLA:CPU takes its temporaries anew each step: without huge pages a
# third of a small model's step are page faults.
HUGE_PAGES = 'glibc.malloc.hugetlb=1'

_COMMIT = flags.DEFINE_string('commit', None, 'Of the code, where it runs without its checkout.')
_OUT = flags.DEFINE_string('out', None, 'Where to write the JSON.')


def _module_and_arguments() -> list[str]:
  return [sys.modules['__main__'].__spec__.name, *sys.argv[1:]]


def start_with_huge_pages() -> None:
  """On Linux: starts this program again with malloc's huge pages, unless malloc was set already."""
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    arguments = [sys.executable, '-m', *_module_and_arguments()]
    os.execve(sys.executable, arguments, os.environ | {'GLIBC_TUNABLES': HUGE_PAGES})


def _commit() -> str | None:
  if _COMMIT.value is not None:
    return _COMMIT.value
  return code_commit()


def _versions() -> dict[str, str]:
  versions = {'python': platform.python_version()}
  for package in ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers'):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def circumstances() -> dict[str, Any]:
  """Command, commit, date, versions, device."""
  return {
    'command': ' '.join(['python', '-m', *_module_and_arguments()]),
    'commit': _commit(),
    'date': datetime.date.today().isoformat(),
    'versions': _versions(),
    'backend': jax.default_backend(),
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count(),
    'malloc': os.environ.get('GLIBC_TUNABLES', ''),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def show(result: dict[str, Any]) -> None:
  for name, value in result.items():
    print(f'{name:<34} {f"{value:,.4g}" if isinstance(value, float) else value}')
  print(flush=True)


def write(results: Any) -> None:
  """Writes the JSON to --out, where that is given."""
  if _OUT.value:
    with open(_OUT.value, 'w') as f:
      json.dump(results, f, indent=2)
      f.write('\n')
