"""Eight fake CPU devices and strict shapes for every test; set before jax is imported anywhere."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
).strip()
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
