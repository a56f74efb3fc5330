"""The stage folders of a prepared folder: which variant of each stage an experiment reads.

Experiments on one data set share a prepared folder. A stage is in `<root>/<stage>/`. If that folder holds the
result of other settings or other raw files, the stage is in the variant `<root>/<stage>-<8 hex digits>/`.
`data_prep.stage` chooses the folders. `<root>/.variants.json` records the choice for each experiment, so that
programs that prepare nothing find the folders.
"""

from collections.abc import Mapping
import json
import os
from typing import Any

from etils import epath

from recjax.runtime.files import digest, write_whole
from recjax.runtime.program import program

MANIFEST = 'manifest.json'
RECORD = '.variants.json'
SPLITS = ('validation', 'test')


class Prepared(os.PathLike):
  """A prepared folder; `prepared / 'interactions/items.jsonl'` is a file of the experiment's variant.

  `os.fspath` and `str` return the root.

  Attributes:
    root: the prepared folder.
    folders: stage → folder name under `root`. None: every stage is in the folder of its own name. A stage
      that the mapping lacks is not used; its path does not exist.
  """

  def __init__(self, root: epath.PathLike, folders: Mapping[str, str] | None = None):
    self.root = epath.Path(root)
    self.folders = None if folders is None else dict(folders)

  @classmethod
  def of(cls, folder: 'epath.PathLike | Prepared') -> 'Prepared':
    """Returns a `Prepared`; a plain path becomes one without variants."""
    return folder if isinstance(folder, cls) else cls(folder)

  def __truediv__(self, place: str) -> epath.Path:
    stage, _, rest = place.partition('/')
    folder = stage if self.folders is None else self.folders.get(stage, f'.{stage}.unused')
    return self.root / folder / rest if rest else self.root / folder

  def __fspath__(self) -> str:
    return os.fspath(self.root)

  def __str__(self) -> str:
    return os.fspath(self.root)

  def __repr__(self) -> str:
    return f'Prepared({os.fspath(self.root)!r}, {self.folders!r})'

  def __eq__(self, other: object) -> bool:
    has_same_root = isinstance(other, Prepared) and self.root == other.root
    return has_same_root and self.folders == other.folders

  __hash__ = None  # `folders` grows while stages are found

  def __reduce__(self):
    return Prepared, (os.fspath(self.root), self.folders)


def recorded(root: epath.PathLike, identity: Any) -> Prepared:
  """Returns the stage folders that the last preparation recorded for an experiment.

  Args:
    root: the prepared folder.
    identity: JSON value of the settings that the preparation depends on.

  Raises:
    ValueError: nothing is prepared, or variants exist but none is recorded for this experiment.
  """
  root = epath.Path(root)
  folders = read_record(root).get(digest(identity))
  is_prepared = (root / 'sids').exists() if folders is None else all_exist(root, folders)
  if not is_prepared or (folders is None and (root / RECORD).exists()):
    raise ValueError(
      f'{root} must hold data that were prepared with this config; run {program()} with this config and '
      '--mode=prepare first, or set --config.data.prepared_dir'
    )
  return Prepared(root, folders)


def all_exist(root: epath.Path, folders: Mapping[str, str]) -> bool:
  """Returns whether every stage folder of a record exists."""
  return all((root / folder / MANIFEST).exists() for folder in folders.values())


def read_record(root: epath.Path) -> dict[str, dict[str, str]]:
  """Returns stage folders by the digest of an experiment's identity; empty without variants.

  Raises:
    ValueError: the file is not a JSON object.
  """
  path = root / RECORD
  if not path.exists():
    return {}
  try:
    record = json.loads(path.read_text())
  except ValueError:
    record = None
  if not isinstance(record, dict):
    raise ValueError(f'{path} must hold a JSON object. Remove it and run --mode=prepare again')
  return record


def write_record(root: epath.Path, record: Mapping[str, Mapping[str, str]]) -> None:
  """Replaces the record; an empty one is removed."""
  if record:
    write_whole(root / RECORD, json.dumps(record, indent=2, sort_keys=True) + '\n')
  else:
    (root / RECORD).unlink(missing_ok=True)
