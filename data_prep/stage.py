"""Stages: each writes one folder, whole or not at all, and is skipped while nothing that it read changed.

`manifest.json` in a stage's folder says what made it (stage, version, params, and the SHA-256 of every
input) and what it holds (bytes and SHA-256 of every file, and a summary). A stage runs in
`.<name>.partial` beside its folder, which is renamed when it is complete.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import os
import time
from typing import Any

from etils import epath

MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of the preparation.

  Attributes:
    name: the stage's folder under the prepared folder.
    run: writes the files into the fresh folder given and returns a JSON summary. Equal inputs and
      params must give equal bytes, so a summary holds no times and no paths.
    inputs: the files whose bytes matter, under names that do not depend on where they lie.
    params: JSON values that matter.
    version: to be raised when the code changes what it writes.
  """

  name: str
  run: Callable[[epath.Path], dict[str, Any]]
  inputs: Mapping[str, epath.Path] = dataclasses.field(default_factory=dict)
  params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  version: int = 1


def outputs(root: epath.PathLike, *names: str) -> dict[str, epath.Path]:
  """Files of other stages (`stage/file`) as the inputs of a stage."""
  return {name: epath.Path(root) / name for name in names}


def read_manifest(folder: epath.PathLike) -> dict[str, Any] | None:
  """The manifest of a finished stage, None where there is none.

  Raises:
    ValueError: it is no JSON object; the message names the file.
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


def is_current(root: epath.PathLike, stage: Stage) -> bool:
  """Whether the stage is finished and would give the same bytes if it ran again.

  An input that lies outside `root` and is absent today counts as unchanged, so that a prepared folder
  serves on machines that do not have the raw files.
  """
  root = epath.Path(root)
  manifest = read_manifest(root / stage.name)
  if manifest is None:
    return False
  recorded = manifest.get('inputs', {})
  for name, path in stage.inputs.items():
    if path.exists():
      if recorded.get(name) != _input_hash(root, path):
        return False
    elif name not in recorded or _is_inside(path, root):
      return False
  identity = {**_identity(stage), 'inputs': {name: recorded[name] for name in stage.inputs}}
  return all(manifest.get(key) == value for key, value in identity.items()) and all(
    (path := root / stage.name / name).exists() and path.stat().length == file['bytes']
    for name, file in manifest['files'].items()
  )


def run_stage(root: epath.PathLike, stage: Stage) -> epath.Path:
  """Brings the stage's folder up to date and prints one line about it.

  Args:
    root: the prepared folder; created if need be.
    stage: what to run, unless `is_current`.

  Returns:
    The stage's folder.

  Raises:
    FileNotFoundError: an input is missing.
    Whatever `stage.run` raises; then nothing of this run is left, and an older folder stays.
  """
  root = epath.Path(root)
  folder = root / stage.name
  started = time.monotonic()
  _recover(root, stage.name)
  if is_current(root, stage):
    _print_line(stage.name, 'skipped, unchanged', read_manifest(folder)['summary'])
    return folder
  for name, path in stage.inputs.items():
    if not path.exists():
      raise FileNotFoundError(f'stage {stage.name} reads {name}, which is missing: {path}')
  inputs = {name: _input_hash(root, path) for name, path in stage.inputs.items()}
  partial = _partial(root, stage.name)
  with contextlib.ExitStack() as cleanup:
    cleanup.callback(_remove_partial, root, stage.name)
    partial.mkdir(parents=True)
    summary = stage.run(partial)
    manifest = {
      **_identity(stage),
      'inputs': inputs,
      'files': {
        path.relative_to(partial).as_posix(): {'bytes': path.stat().length, 'sha256': _sha256(path)}
        for path in _walk(partial)
        if not path.is_dir()
      },
      'summary': summary,
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
    _sync(partial)
    _replace(root, stage.name)
  _print_line(stage.name, f'done in {time.monotonic() - started:.1f} s', summary)
  return folder


def _identity(stage: Stage) -> dict[str, Any]:
  # Through JSON, because that is what a manifest gives back: tuples are lists there.
  params = json.loads(json.dumps(dict(stage.params)))
  return {'stage': stage.name, 'version': stage.version, 'params': params}


def _partial(root: epath.Path, name: str) -> epath.Path:
  return root / f'.{name}.partial'


def _old(root: epath.Path, name: str) -> epath.Path:
  return root / f'.{name}.old'


def _replace(root: epath.Path, name: str) -> None:
  """Puts the partial folder in the place of the folder; `_recover` mends a kill between the steps."""
  folder, old = root / name, _old(root, name)
  if folder.exists():
    folder.rename(old)
  _partial(root, name).rename(folder)
  if _is_local(root):
    _fsync(root)
  old.rmtree(missing_ok=True)


def _recover(root: epath.Path, name: str) -> None:
  folder, old = root / name, _old(root, name)
  if old.exists():
    if folder.exists():
      old.rmtree()
    else:
      old.rename(folder)
  _partial(root, name).rmtree(missing_ok=True)


def _remove_partial(root: epath.Path, name: str) -> None:
  _partial(root, name).rmtree(missing_ok=True)
  if root.exists() and not any(root.iterdir()):
    root.rmdir()


def _input_hash(root: epath.Path, path: epath.Path) -> str:
  """The SHA-256 of a file, read from the manifest of the stage that wrote it if one did."""
  if _is_inside(path, root):
    stage_name, *rest = path.relative_to(root).parts
    manifest = read_manifest(root / stage_name)
    file = (manifest or {}).get('files', {}).get('/'.join(rest))
    if file is not None:
      return file['sha256']
  return _sha256(path)


def _sha256(path: epath.Path) -> str:
  with path.open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  """Everything below a folder, what a folder holds before the folder; epath has no `**`."""
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _walk(path)
    yield path


def _is_inside(path: epath.Path, root: epath.Path) -> bool:
  return root in path.parents


def _is_local(path: epath.Path) -> bool:
  return '://' not in os.fspath(path)


def _sync(folder: epath.Path) -> None:
  """Forces a folder to the disk, so that the rename cannot outlive what it names."""
  if _is_local(folder):
    for path in (*_walk(folder), folder):
      _fsync(path)


def _fsync(path: epath.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _print_line(name: str, outcome: str, summary: Mapping[str, Any]) -> None:
  figures = [
    f'{value:,} {key.replace("_", " ")}' if isinstance(value, int | float) else f'{key} {value}'
    for key, value in summary.items()
    if isinstance(value, int | float | str) and not isinstance(value, bool)
  ]
  print(f'{name}: {outcome}{": " if figures else ""}{" / ".join(figures)}', flush=True)
