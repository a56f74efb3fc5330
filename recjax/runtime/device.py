"""Peak memory of this process and its devices, and JAX's compilation cache."""

import os
import platform

from etils import epath
import jax

from recjax.runtime.files import digest, is_local

CACHE_FOLDER = 'compilation_cache'

NAMES = ('host_peak_bytes', 'device_peak_bytes', 'device_limit_bytes')


def peaks() -> dict[str, int]:
  """Returns peak memory in bytes, as fields of metrics.jsonl.

  Returns:
    `host_peak_bytes`: peak resident memory of this process (Linux only). `device_peak_bytes`: peak of the
    local device with the highest peak. `device_limit_bytes`: memory limit of that device. XLA:CPU reports
    neither of the device fields.
  """
  found = {}
  host = _host_peak()
  if host is not None:
    found['host_peak_bytes'] = host
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  fullest = max(stats, key=lambda device_stats: device_stats.get('peak_bytes_in_use', 0))
  for name, key in (('peak', 'peak_bytes_in_use'), ('limit', 'bytes_limit')):
    if key in fullest:
      found[f'device_{name}_bytes'] = fullest[key]
  return found


def memory() -> int | None:
  """Returns the memory of a local device in bytes, on CPU that of the machine; None: it is not known."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all('bytes_limit' in each for each in stats):
    return min(each['bytes_limit'] for each in stats)
  if jax.default_backend() == 'cpu' and 'SC_PHYS_PAGES' in getattr(os, 'sysconf_names', ()):
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return None


def set_compilation_cache(folder: str | None, workdir: epath.Path) -> None:
  """Sets the folder of JAX's persistent compilation cache; call it before the first compilation.

  $JAX_COMPILATION_CACHE_DIR takes precedence. CPU programs are not cached by default: they are compiled for
  one type of processor, and a restart may run on another.

  Args:
    folder: `config.compilation_cache`. None: `compilation_cache` in the workdir, but no cache on CPU. Empty:
      no cache.
    workdir: workdir of the run.
  """
  if folder is None and jax.default_backend() != 'cpu':
    folder = str(workdir / CACHE_FOLDER)
  if folder and jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', folder)


def set_library_cache(workdir: epath.Path) -> None:
  """Sets the compilation cache of an application that loads a model: `compilation_cache` in the workdir.

  On CPU it has a folder for each type of processor, because its programs run on no other. An application that has
  set a cache keeps it; a workdir that cannot be written gets none.
  """
  folder = workdir / CACHE_FOLDER
  if jax.default_backend() == 'cpu':
    folder = folder / f'cpu-{_processor()}'
  is_writable = not is_local(workdir) or os.access(workdir, os.W_OK)
  if is_writable and jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', os.fspath(folder))


def _processor() -> str:
  """Returns a hash of the instructions that this machine's processor knows."""
  try:
    with open('/proc/cpuinfo') as f:
      features = [line for line in f if line.startswith(('flags', 'Features', 'model name'))]
  except OSError:
    features = [platform.processor()]
  return digest([platform.machine(), *sorted(set(features))])


def _host_peak() -> int | None:
  try:
    # resource.getrusage also counts the memory of the parent process before exec.
    with open('/proc/self/status') as f:
      line = next((line for line in f if line.startswith('VmHWM:')), None)
  except OSError:
    return None
  return int(line.split()[1]) * 1024 if line else None
