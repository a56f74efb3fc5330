import resource
import subprocess
import sys
import types

from etils import epath
import jax
import numpy as np
import pytest

from recjax.runtime import device as device_lib


def test_the_host_peak_is_that_of_the_system():
  big = np.ones(200_000_000, np.uint8)
  found = device_lib.peaks()
  assert found['host_peak_bytes'] > big.nbytes
  # Equal, unless the parent process was larger: the other source counts it.
  assert (
    found['host_peak_bytes'] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**20
  )
  assert found.keys() == {'host_peak_bytes'}  # XLA:CPU reports no device memory


def test_the_memory_of_the_parent_process_is_not_counted():
  big = np.ones(500_000_000, np.uint8)
  program = 'from recjax.runtime import device; print(device.peaks()["host_peak_bytes"])'
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, check=True)
  assert int(done.stdout) < big.nbytes


def test_the_device_with_the_highest_peak_is_reported(monkeypatch):
  def device(stats):
    return types.SimpleNamespace(memory_stats=lambda: stats)

  devices = [
    device({'peak_bytes_in_use': 5, 'bytes_limit': 90}),
    device({'peak_bytes_in_use': 7, 'bytes_limit': 80, 'num_allocs': 3}),
    device(None),
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  found = device_lib.peaks()
  assert (found['device_peak_bytes'], found['device_limit_bytes']) == (7, 80)
  assert set(found) <= set(device_lib.NAMES)


@pytest.fixture
def folder_now():
  """Unsets JAX's cache folder; returns a function that reads it. Restores it afterwards."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.parametrize(
  ('field', 'backend', 'expected'),
  [
    (None, 'cpu', None),
    (None, 'gpu', 'gs://bucket/run/compilation_cache'),
    ('', 'gpu', None),
    ('/tmp/there', 'cpu', '/tmp/there'),
  ],
)
def test_the_cache_is_in_the_workdir_unless_set_and_off_on_cpu(
  folder_now, monkeypatch, field, backend, expected
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  device_lib.set_compilation_cache(field, epath.Path('gs://bucket/run'))
  assert folder_now() == expected


def test_the_environment_takes_precedence(folder_now):
  jax.config.update('jax_compilation_cache_dir', '/tmp/of the environment')
  device_lib.set_compilation_cache('/tmp/there', epath.Path('/tmp/run'))
  assert folder_now() == '/tmp/of the environment'
