"""paths.json of a workdir: the folder from which its config counts relative paths, and the data it was trained on.

  {"current_folder": "/home/ann/shop", "workdir": "runs/table", "prepared_folder": "/home/ann/shop/data/table",
   "stages": {"interactions": "interactions", "sids": "sids-1f0c22ab", …}}

With this file a workdir can be used from any folder and after a move, and needs no raw files. `stages` is null if
every stage is in the folder of its own name. Workdirs of earlier versions have no such file.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
from typing import Any, NamedTuple

from etils import epath

from recjax.config import Config
from recjax.data.prepared import Prepared, all_exist
from recjax.runtime.files import is_local, write_whole

FILE = 'paths.json'

# These count from data.raw_dir, not from the current folder.
_IN_RAW_DIR = ('interactions_files', 'items_files')


class Paths(NamedTuple):
  """The content of paths.json.

  Attributes:
    current_folder: current folder of the latest start of the training.
    workdir: folder of the training, from there.
    prepared_folder: absolute path of the prepared folder of that start.
    stages: the stage folders in it; see `Prepared`.
  """

  current_folder: str
  workdir: str
  prepared_folder: str
  stages: dict[str, str] | None


def write(folder: epath.Path, prepared: Prepared) -> None:
  """Writes paths.json of a training, which reads `prepared`."""
  place = os.path.relpath(folder) if is_local(folder) else os.fspath(folder)
  paths = Paths(os.getcwd(), place, absolute(prepared), prepared.folders)
  write_whole(folder / FILE, json.dumps(paths._asdict(), indent=2) + '\n')


def read(folder: epath.Path) -> Paths | None:
  """Returns the content of paths.json; None if the folder has none.

  Raises:
    ValueError: the file is damaged.
  """
  path = folder / FILE
  if not path.exists():
    return None
  try:
    fields = json.loads(path.read_text())
    paths = Paths(*(fields.get(name) for name in Paths._fields))
    is_whole = all(isinstance(value, str) for value in paths[:3])
    is_whole &= isinstance(paths.stages, dict | None)
  except (ValueError, AttributeError):
    is_whole = False
  if not is_whole:
    raise ValueError(
      f'{path} must hold the paths of a run; it is damaged. Remove it, and use the workdir from the folder in '
      'which it was trained'
    )
  return paths


def absolute(path: os.PathLike | str) -> str:
  """Returns the absolute form of a local path; other paths are returned as they are."""
  return os.path.abspath(os.path.expanduser(path)) if is_local(path) else os.fspath(path)


def located(config: Config, folder: epath.Path) -> Config:
  """Returns the config of a workdir with relative paths that are valid in the current folder.

  A relative path counts from the folder in which the run was started. If nothing exists there, the project was moved
  as a whole: then it counts from the folder that has the workdir at the same place, or from the current one.

  Args:
    config: the config that the workdir holds.
    folder: the workdir.
  """
  paths = read(folder)
  if paths is None or paths.current_folder == os.getcwd():
    return config
  prepared = os.fspath(config.prepared_folder)
  starts = _starts(paths, folder)
  found = _found(prepared, starts)
  if found == prepared and is_local(prepared) and not os.path.exists(prepared):
    found = paths.prepared_folder  # for the message
  if found != prepared:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared_dir=found))
  return _replaced(config, starts)


def _starts(paths: Paths, folder: epath.Path) -> tuple[str, ...]:
  """Returns the folders from which relative paths may count."""
  here = absolute(folder)
  is_below = here.endswith(os.sep + paths.workdir)
  root = here.removesuffix(os.sep + paths.workdir)
  return (paths.current_folder, root) if is_below else (paths.current_folder,)


def _replaced(section: Any, starts: tuple[str, ...]) -> Any:
  """Returns a section with the paths that exist below one of the folders `starts`."""
  changes = {}
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    rules = field.metadata.get('rules')
    if dataclasses.is_dataclass(value):
      changes[field.name] = _replaced(value, starts)
    elif isinstance(value, dict):
      changes[field.name] = {
        name: _replaced(part, starts) if dataclasses.is_dataclass(part) else part
        for name, part in value.items()
      }
    elif rules is not None and rules.path and value and field.name not in _IN_RAW_DIR:
      changes[field.name] = _found(value, starts)
  return dataclasses.replace(section, **changes)


def _found(path: str, starts: tuple[str, ...]) -> str:
  if os.path.isabs(path) or ':' in path:  # a colon: gs://…, hf:…
    return path
  there = (os.path.join(start, path) for start in starts)
  return next(filter(os.path.exists, there), path)


def prepared_data(config: Config, folder: epath.Path | None) -> Prepared:
  """Returns the prepared data of a run, without a look at raw files.

  Args:
    config: config of the run.
    folder: its workdir; None: the run has none yet.

  Raises:
    ValueError: they are missing. The message names the folder.
  """
  if folder is None:
    return config.prepared
  if (found := trained_on(folder, config.prepared_folder)) is not None:
    return found
  check_exists(config, folder)
  return config.prepared


def check_exists(config: Config, folder: epath.Path) -> None:
  """Raises a ValueError if the prepared folder of a run does not exist or lacks a stage that the run used."""
  root, paths = config.prepared_folder, read(folder)
  if not root.exists():
    lacks = 'does not exist'
  elif paths is not None and absolute(root) == paths.prepared_folder:
    if not (stages := list(missing(Prepared(root, paths.stages)))):
      return
    lacks = f'lacks {", ".join(stages)}'
  else:
    return
  raise ValueError(
    f'the prepared data of {folder} must be in {absolute(root)}; it {lacks}. Set --config.data.prepared_dir to the '
    'folder where they are now, or prepare them again with --mode=prepare'
  )


def trained_on(folder: epath.Path, prepared_folder: epath.Path) -> Prepared | None:
  """Returns the prepared data of a training: where they were, or after a move in `prepared_folder`.

  Returns:
    None: they are not there, `prepared_folder` holds other data, or the workdir has no paths.json.
  """
  paths = read(folder)
  if paths is None:
    return None
  is_same = absolute(prepared_folder) == paths.prepared_folder
  if not is_same and epath.Path(paths.prepared_folder).exists():
    return None
  prepared = Prepared(prepared_folder, paths.stages)
  return None if list(missing(prepared)) else prepared


def missing(prepared: Prepared) -> Iterator[str]:
  """Yields the stage folders of a record that do not exist."""
  for stage in prepared.folders or dict.fromkeys(('interactions', 'tokenizer', 'texts', 'sids')):
    folder = (prepared.folders or {}).get(stage, stage)
    if not all_exist(prepared.root, {stage: folder}):
      yield folder
