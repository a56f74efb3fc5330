"""What every worker is told: the settings, the raw files, the folder of the parts; and its check of code and settings."""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import os
import platform
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.beam.parts import Work
from data_prep.sources.base import Source
from recjax.runtime import files as files_lib

_PACKAGES = ('data_prep', 'recjax/data', 'recjax/schema', 'recjax/runtime')
SETTINGS = 'job.json'


@dataclasses.dataclass(frozen=True)
class Job:
  """One preparation of a log.

  Attributes:
    data: the data section of the config.
    raw_dir: folder of the raw files, as the workers see it.
    work: the folder of the parts.
    code: `code_digest` of the launcher.
  """

  data: Source
  raw_dir: str
  work: Work
  code: str

  def settings(self) -> dict[str, Any]:
    """Returns the values that all workers must have."""
    data = dataclasses.asdict(self.data)
    del data['beam_options']  # the number of workers may change between two starts
    return json.loads(json.dumps({'data': data, 'raw_dir': self.raw_dir, 'code': self.code}))

  def start(self) -> None:
    """Writes the settings into the folder of the parts, for `check`."""
    folder = epath.Path(self.work.folder)
    folder.mkdir(parents=True, exist_ok=True)
    files_lib.write_whole(folder / SETTINGS, json.dumps(self.settings(), indent=2) + '\n')

  def check(self) -> None:
    """Checks in a worker that it has the code and the settings of the launcher.

    Raises:
      ValueError: it has others, or does not see the folder of the parts.
    """
    if (own := code_digest()) != self.code:
      raise ValueError(
        f'a worker must run the code of the launcher, {self.code}; {platform.node()} runs {own}. Install this '
        'version of recjax and of its packages on the workers (--setup_file, --extra_package or '
        '--sdk_container_image in --config.data.beam_options)'
      )
    path = epath.Path(self.work.folder) / SETTINGS
    if not path.exists():
      raise ValueError(
        f'{path} must be visible to every worker; {platform.node()} does not see it. Set --config.data.prepared_dir '
        'to a shared folder or a bucket'
      )
    written = files_lib.flat(json.loads(path.read_text()))
    own = files_lib.flat(self.settings())
    different = sorted(name for name in written | own if written.get(name) != own.get(name))
    if different:
      name = different[0]
      raise ValueError(
        f'a worker must have the settings of the launcher; {platform.node()} has {name}={own.get(name)!r}, and {path} '
        f'{written.get(name)!r}. Let one launcher use this folder at a time, and run the command again'
      )


@functools.cache
def code_digest() -> str:
  """Returns a digest of the code of the preparation, and of the packages that its bytes depend on."""
  found = hashlib.sha256()
  for package in _PACKAGES:
    root = epath.resource_path(package.partition('/')[0])
    folder = root / package.partition('/')[2]
    for path in sorted(_modules(folder), key=os.fspath):
      found.update(f'{package}/{path.relative_to(folder)}\n'.encode())
      found.update(path.read_bytes())
  versions = {
    'python': platform.python_version(),
    'numpy': np.__version__,
    'pyarrow': pa.__version__,
  }
  found.update(json.dumps(versions, sort_keys=True).encode())
  return found.hexdigest()[:16]


def _modules(folder: epath.Path) -> list[epath.Path]:
  found = []
  for path in folder.iterdir():
    if path.is_dir():
      found += _modules(path)
    elif path.name.endswith('.py'):
      found.append(path)
  return found


def identity(params: Mapping[str, Any], inputs: Mapping[str, epath.Path]) -> str:
  """Returns the digest of a preparation: settings, raw files by size and time of change, and code."""
  files = {name: _state(path) for name, path in inputs.items()}
  return files_lib.digest({'params': dict(params), 'inputs': files, 'code': code_digest()})


def _state(path: epath.Path) -> list[Any]:
  if not path.exists():
    return [os.fspath(path)]
  if files_lib.is_local(path):
    stat = os.stat(path)
    return [os.fspath(path), stat.st_size, stat.st_mtime_ns]
  stat = path.stat()
  return [os.fspath(path), stat.length, stat.mtime]
