"""Devices of this process: peak memory, and where compiled programs are kept."""

from etils import epath
import jax

CACHE_FOLDER = 'compilation_cache'

NAMES = ('host_peak_bytes', 'device_peak_bytes', 'device_limit_bytes')


def peaks() -> dict[str, int]:
  """Bytes, for metrics.jsonl; what the system or the backend does not say is left out.

  Returns:
    `host_peak_bytes`: resident memory of this process. `device_peak_bytes`: of the fullest of its devices, and
    `device_limit_bytes`, what that one has for JAX; XLA:CPU says neither.
  """
  found = {}
  host = _host_peak()
  if host is not None:
    found['host_peak_bytes'] = host
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  fullest = max(stats, key=lambda of: of.get('peak_bytes_in_use', 0))
  for name, key in (('peak', 'peak_bytes_in_use'), ('limit', 'bytes_limit')):
    if key in fullest:
      found[f'device_{name}_bytes'] = fullest[key]
  return found


def keep_programs(folder: str | None, workdir: epath.Path) -> None:
  """Sets the folder of JAX's persistent compilation cache; call it before anything is compiled.

  $JAX_COMPILATION_CACHE_DIR takes precedence. Programs for CPU are not kept by default: they belong to one
  kind of processor, and a restart may run on another.

  Args:
    folder: `config.compilation_cache`. None: `compilation_cache` in the workdir, except on CPU; empty: none.
    workdir: of the run.
  """
  if folder is None and jax.default_backend() != 'cpu':
    folder = str(workdir / CACHE_FOLDER)
  if folder and jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', folder)


def _host_peak() -> int | None:
  try:
    # resource.getrusage would do, but what it says includes the process that started this one.
    with open('/proc/self/status') as f:
      line = next((line for line in f if line.startswith('VmHWM:')), None)
  except OSError:
    return None
  return int(line.split()[1]) * 1024 if line else None
