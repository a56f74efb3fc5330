"""Stages of the preparation: each writes one folder atomically, and is skipped while its inputs are unchanged.

`manifest.json` in a stage's folder records its identity (stage, version, params, SHA-256 of every input) and
its content (bytes and SHA-256 of every file, and a summary). The usual folder of a stage is `<stage>/`. If that
folder holds the result of another identity, the stage uses the variant
`<stage>-<8 hex digits of the identity's hash>/`, so configs with the same data set do not overwrite each other. A
stage runs in a partial folder with a unique name, which is renamed when it is complete.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import re
import time
from typing import Any

from etils import epath

from recjax.data.prepared import MANIFEST, Prepared
from recjax.runtime import files as files_lib

_PARTIAL = re.compile(r'\.(.+)\.partial')
_PARTS = re.compile(r'\.(.+)\.beam-[0-9a-f]{16}')  # written by data_prep.beam
_REPLACED = re.compile(r'\.(.+)\.old')  # written by earlier versions


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of the preparation.

  Attributes:
    name: the stage's folder under the prepared folder.
    run: writes the files into an empty folder and returns a JSON summary. Equal inputs and params must give
      equal bytes, so a summary holds no times and no paths.
    inputs: files that determine the result. Their names do not contain their location.
    params: JSON values that determine the result.
    version: must be increased when a change of the code changes the result.
  """

  name: str
  run: Callable[[epath.Path], dict[str, Any]]
  inputs: Mapping[str, epath.Path] = dataclasses.field(default_factory=dict)
  params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  version: int = 1


def outputs(prepared: Prepared, *names: str) -> dict[str, epath.Path]:
  """Returns files of other stages (`stage/file`) as the inputs of a stage."""
  return {name: prepared / name for name in names}


def read_manifest(folder: epath.PathLike) -> dict[str, Any] | None:
  """Returns the manifest of a finished stage; None if there is none.

  Raises:
    ValueError: the file is not a JSON object; the message names it.
  """
  path = epath.Path(folder) / MANIFEST
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} must be JSON: {error}. Remove its folder to build it again') from None
  if not isinstance(manifest, dict):
    raise ValueError(f'{path} must hold an object. Remove its folder to build it again')
  return manifest


def variants(root: epath.PathLike, name: str) -> dict[epath.Path, dict[str, Any]]:
  """Returns the finished folders of a stage and their manifests, the usual folder first."""
  root = epath.Path(root)
  belongs = re.compile(re.escape(name) + r'(-[0-9a-f]{8})?').fullmatch
  names = sorted(path.name for path in root.iterdir()) if root.is_dir() else ()
  manifests = {root / folder: read_manifest(root / folder) for folder in names if belongs(folder)}
  return {folder: manifest for folder, manifest in manifests.items() if manifest is not None}


def is_variant(name: str) -> bool:
  """Returns whether a stage folder is a variant, not the usual folder."""
  return '-' in name


def is_leftover(name: str) -> bool:
  """Returns whether a killed process left a folder of this name."""
  return any(kind.fullmatch(name) for kind in (_PARTIAL, _PARTS, _REPLACED))


def finished(root: epath.Path) -> list[str]:
  """Returns the names of the finished stage folders of all configs."""
  found = []
  for path in root.iterdir():
    manifest = read_manifest(path) if path.is_dir() else None
    # Another program's folder may hold a manifest.json too.
    if manifest is not None and path.name.split('-')[0] == manifest.get('stage'):
      found.append(path.name)
  return sorted(found)


def has_params(manifest: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
  """Returns whether a manifest records these params."""
  return manifest['params'] == _as_json(params)


class Folder:
  """A prepared folder, in which the stages of one config are found or run.

  A stage reads outputs of earlier stages, so stages must be found or run in their order.

  Attributes:
    root: the prepared folder.
    prepared: the stage folders that were found or written so far.
  """

  def __init__(self, root: epath.PathLike):
    self.root = epath.Path(root)
    self.prepared = Prepared(self.root, {})
    self._hashes: dict[str, str] = {}  # of files outside `root`, computed once: raw logs are large

  def find(self, stage: Stage) -> bool:
    """Finds the finished folder of a stage and adds it to `prepared`; changes no file.

    An absent input outside `root` counts as unchanged, so a prepared folder can be used on machines without
    the raw files.

    Returns:
      Whether there is such a folder.

    Raises:
      ValueError: several folders match, and the inputs that distinguish them are absent.
    """
    hashes = self._input_hashes(stage)
    found = [
      folder
      for folder, manifest in variants(self.root, stage.name).items()
      if self._matches(stage, hashes, manifest) and _is_complete(folder, manifest)
    ]
    if len(found) > 1 and None in hashes.values():
      absent = [os.fspath(stage.inputs[name]) for name, value in hashes.items() if value is None]
      raise ValueError(
        f'{", ".join(map(os.fspath, found))} were built from different files; {absent[0]} must exist to select '
        'one of them, and is missing. Restore that file, or prune the folder on a machine that has it: '
        '--mode=prepare --prune'
      )
    if found:
      self.prepared.folders[stage.name] = found[0].name
    return bool(found)

  def run(self, stage: Stage) -> None:
    """Finds the stage or runs it; prints one line about it and adds its folder to `prepared`.

    The caller holds the lock of the prepared folder.

    Raises:
      FileNotFoundError: an input is missing.
      Exception: any error of `stage.run`; the prepared folder is then unchanged.
    """
    started = time.monotonic()
    if self.find(stage):
      self.print_found(stage)
      return
    hashes = self._input_hashes(stage)
    for name, value in hashes.items():
      if value is None:
        path = stage.inputs[name]
        raise FileNotFoundError(f'{path} must exist: stage {stage.name} reads it as {name}')
    identity = {**_identity(stage), 'inputs': hashes}
    folder = self._free_folder(stage, identity)
    partial = files_lib.partial_name(folder)
    with contextlib.ExitStack() as cleanup:
      cleanup.callback(partial.rmtree, missing_ok=True)
      partial.mkdir(parents=True)
      summary = stage.run(partial)
      manifest = {**identity, 'files': _content(partial), 'summary': summary}
      (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
      _sync(partial)
      _replace(partial, folder)
    self.prepared.folders[stage.name] = folder.name
    _print_line(stage.name, f'done in {time.monotonic() - started:.1f} s', summary)

  def print_found(self, stage: Stage) -> None:
    """Prints the line of a stage that `find` found."""
    summary = read_manifest(self.prepared / stage.name)['summary']
    _print_line(stage.name, 'skipped, unchanged', summary)

  def recover(self) -> None:
    """Removes partial folders of processes that were killed. The caller holds the lock."""
    for path in list(self.root.iterdir()):
      if _PARTIAL.fullmatch(path.name):
        path.rmtree() if path.is_dir() else path.unlink()
      elif (replaced := _REPLACED.fullmatch(path.name)) and path.is_dir():
        folder = self.root / replaced[1]
        path.rmtree() if folder.exists() else path.rename(folder)

  def _input_hashes(self, stage: Stage) -> dict[str, str | None]:
    """The SHA-256 of every input; None for an absent one."""
    return {
      name: self._hash(path) if path.exists() else None for name, path in stage.inputs.items()
    }

  def _hash(self, path: epath.Path) -> str:
    """The SHA-256 of a file: from the manifest for a stage's output, else computed once."""
    if self.root in path.parents:
      stage_folder, *rest = path.relative_to(self.root).parts
      manifest = read_manifest(self.root / stage_folder)
      file = (manifest or {}).get('files', {}).get('/'.join(rest))
      return files_lib.sha256(path) if file is None else file['sha256']
    name = os.fspath(path)
    if name not in self._hashes:
      self._hashes[name] = files_lib.sha256(path)
    return self._hashes[name]

  def _matches(
    self, stage: Stage, hashes: Mapping[str, str | None], manifest: Mapping[str, Any]
  ) -> bool:
    recorded = manifest.get('inputs', {})
    absent = [name for name, value in hashes.items() if value is None]
    # An absent table may have been read in several parts, which are recorded as `<name>/<number>`.
    names = {next((n for n in absent if name.startswith(f'{n}/')), name) for name in recorded}
    if names != hashes.keys():
      return False
    is_inside = {name: self.root in path.parents for name, path in stage.inputs.items()}
    return all(manifest.get(key) == value for key, value in _identity(stage).items()) and all(
      not is_inside[name] if value is None else recorded[name] == value
      for name, value in hashes.items()
    )

  def _free_folder(self, stage: Stage, identity: Mapping[str, Any]) -> epath.Path:
    """The usual folder; a variant if the usual one holds the finished result of another identity."""
    folder = self.root / stage.name
    manifest = read_manifest(folder)
    if manifest is None or all(manifest.get(key) == value for key, value in identity.items()):
      return folder
    return self.root / f'{stage.name}-{files_lib.digest(identity)[:8]}'


def _as_json(params: Mapping[str, Any]) -> dict[str, Any]:
  """The params as in a manifest: tuples become lists."""
  return json.loads(json.dumps(dict(params)))


def _identity(stage: Stage) -> dict[str, Any]:
  return {'stage': stage.name, 'version': stage.version, 'params': _as_json(stage.params)}


def _is_complete(folder: epath.Path, manifest: Mapping[str, Any]) -> bool:
  return all(
    (path := folder / name).exists() and path.stat().length == file['bytes']
    for name, file in manifest['files'].items()
  )


def _content(folder: epath.Path) -> dict[str, dict[str, Any]]:
  return {
    path.relative_to(folder).as_posix(): {
      'bytes': path.stat().length,
      'sha256': files_lib.sha256(path),
    }
    for path in _walk(folder)
    if not path.is_dir()
  }


def _replace(partial: epath.Path, folder: epath.Path) -> None:
  """Renames a partial folder; an incomplete folder of that name is removed first."""
  if folder.exists():
    folder.rmtree()
  partial.rename(folder)
  if files_lib.is_local(folder):
    files_lib.sync(folder.parent)


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all paths below a folder, children before their folder; epath has no recursive glob."""
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _walk(path)
    yield path


def num_bytes(folder: epath.Path) -> int:
  """Returns the total size of the files below a folder."""
  return sum(path.stat().length for path in _walk(folder) if not path.is_dir())


def _sync(folder: epath.Path) -> None:
  """Syncs a folder and all files in it to the disk."""
  if files_lib.is_local(folder):
    for path in (*_walk(folder), folder):
      files_lib.sync(path)


def _print_line(name: str, outcome: str, summary: Mapping[str, Any]) -> None:
  figures = [
    f'{value:,} {key.replace("_", " ")}' if isinstance(value, int | float) else f'{key} {value}'
    for key, value in summary.items()
    if isinstance(value, int | float | str) and not isinstance(value, bool)
  ]
  print(f'{name}: {outcome}{": " if figures else ""}{" / ".join(figures)}', flush=True)
