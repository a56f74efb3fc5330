"""Sets up eight simulated CPU devices and strict rank promotion for all tests, before jax is imported."""

import os
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compilation is most of the suite's time; level 1 takes a seventh off it. Commands that tests start as users do have no
# such flag.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1'
).strip()
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
# Many tests compile the same programs, also in new processes; the cache avoids repeated compilation.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'recjax-test-cache')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def tiny_world(tmp_path_factory):
  """The config `configs/demo.py:tiny` and its prepared data, created once per test process."""
  from configs import demo
  from data_prep import prepare
  from recjax import config as config_lib
  from recjax.data.dataset import Dataset

  folder = tmp_path_factory.mktemp('tiny_world')
  config_dict = demo.get_config('tiny')
  config_dict.data.prepared_dir = str(folder)
  config = config_lib.from_config_dict(config_dict)
  prepare.prepare(config)
  return config, Dataset.load(folder)
