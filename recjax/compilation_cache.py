"""Keeping what JAX compiles, so that a run that is started again does not compile again."""

from etils import epath
import jax

from recjax import config as config_lib

FOLDER = 'compilation_cache'


def keep(config: config_lib.Config, workdir: epath.Path) -> None:
  """Tells JAX where: `config.compilation_cache`; call it before anything is compiled.

  By default the folder lies in the workdir, which a restart on another machine finds too. Programs for CPU
  are not kept by default: they belong to one kind of processor, which such a machine may not have.
  """
  folder = config.compilation_cache
  if folder is None and jax.default_backend() != 'cpu':
    folder = str(workdir / FOLDER)
  if folder and jax.config.jax_compilation_cache_dir is None:  # else the environment has said it
    jax.config.update('jax_compilation_cache_dir', folder)
