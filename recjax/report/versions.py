"""The versions of the code that a run used."""

import importlib.metadata
import platform
import subprocess

from etils import epath

PACKAGES = ('recjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def code_versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that results depend on."""
  versions = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = 'not installed'  # recjax itself, if it runs from its folder
  return versions


def code_commit() -> str | None:
  """Returns the commit of the checkout that this code is part of, with `-dirty` if files differ from it.

  None if there is no checkout or no git.
  """
  root = epath.resource_path('recjax').parent
  if not (root / '.git').exists():
    return None
  describe = ['describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
  try:
    done = subprocess.run(
      ['git', '-C', str(root), *describe], capture_output=True, text=True, check=False
    )
  except FileNotFoundError:
    return None
  return done.stdout.strip() if done.returncode == 0 else None
