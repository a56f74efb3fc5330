import dataclasses

from etils import epath
import jax
import pytest

from recjax import compilation_cache


@pytest.fixture
def folder_now():
  """What JAX is told, from nothing on; as before afterwards."""
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
def test_where_programs_are_kept(tiny_world, folder_now, monkeypatch, field, backend, expected):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  config = dataclasses.replace(tiny_world[0], compilation_cache=field)
  compilation_cache.keep(config, epath.Path('gs://bucket/run'))
  assert folder_now() == expected


def test_the_environment_comes_first(tiny_world, folder_now):
  jax.config.update('jax_compilation_cache_dir', '/tmp/of the environment')
  config = dataclasses.replace(tiny_world[0], compilation_cache='/tmp/there')
  compilation_cache.keep(config, epath.Path('/tmp/run'))
  assert folder_now() == '/tmp/of the environment'
