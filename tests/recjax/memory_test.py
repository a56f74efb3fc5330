import resource
import subprocess
import sys
import types

import jax
import numpy as np

from recjax import memory


def test_the_hosts_peak_is_what_the_system_says():
  big = np.ones(200_000_000, np.uint8)
  found = memory.peaks()
  assert found['host_peak_bytes'] > big.nbytes
  # Where no larger process started this one, both sources say the same; the other may only be larger.
  assert (
    found['host_peak_bytes'] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**20
  )
  assert found.keys() == {'host_peak_bytes'}  # XLA:CPU says nothing of its devices


def test_the_memory_of_the_process_that_started_this_one_does_not_count():
  big = np.ones(500_000_000, np.uint8)
  program = 'from recjax import memory; print(memory.peaks()["host_peak_bytes"])'
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, check=True)
  assert int(done.stdout) < big.nbytes


def test_the_fullest_device_counts(monkeypatch):
  def device(stats):
    return types.SimpleNamespace(memory_stats=lambda: stats)

  devices = [
    device({'peak_bytes_in_use': 5, 'bytes_limit': 90}),
    device({'peak_bytes_in_use': 7, 'bytes_limit': 80, 'num_allocs': 3}),
    device(None),
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  found = memory.peaks()
  assert (found['device_peak_bytes'], found['device_limit_bytes']) == (7, 80)
  assert set(found) <= set(memory.NAMES)
