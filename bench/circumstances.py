"""Records the circumstances of measured figures; prints and writes results."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from typing import Any

from absl import flags
import jax

from launch.options import portable
from recjax.runtime.files import code_commit, write_whole

# Settings of glibc's malloc: those of `recjax.runtime.heap`, so a benchmark allocates as a run does.
HEAP = f'glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**64 - 1}'

_COMMIT = flags.DEFINE_string(
  'commit', None, 'Commit of the code, if it runs outside of a checkout.'
)
_OUT = flags.DEFINE_string('out', None, 'File to write the results to, as JSON.')


def _module() -> str:
  return sys.modules['__main__'].__spec__.name.removesuffix('.__main__')


def start_with_one_heap() -> None:
  """Restarts this program with the allocation of a run on Linux, unless malloc is already configured."""
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    arguments = [sys.executable, '-m', _module(), *sys.argv[1:]]
    os.execve(sys.executable, arguments, os.environ | {'GLIBC_TUNABLES': HEAP})


def _versions() -> dict[str, str]:
  versions = {'python': platform.python_version()}
  for package in (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'numpy',
    'pyarrow',
    'apache-beam',
    'torch',
    'transformers',
  ):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def circumstances() -> dict[str, Any]:
  """Returns command, commit, date, versions and device.

  The command names no path of this machine: see `launch.options.portable`.
  """
  return {
    'command': shlex.join(['python', '-m', _module(), *portable(sys.argv[1:])]),
    'commit': _COMMIT.value or code_commit(),
    'date': datetime.date.today().isoformat(),
    'versions': _versions(),
    'backend': jax.default_backend(),
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count(),
    'malloc': os.environ.get('GLIBC_TUNABLES', ''),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def show(result: dict[str, Any]) -> None:
  """Prints one figure per line."""
  for name, value in result.items():
    print(f'{name:<40} {f"{value:,.4g}" if isinstance(value, float) else value}')
  print(flush=True)


def write(results: Any) -> None:
  """Writes the results to --out as JSON, if it is given."""
  if _OUT.value:
    write_whole(_OUT.value, json.dumps(results, indent=2) + '\n')
