"""Checkpoints of the Hugging Face hub by name: `hf:google/flan-t5-base`, `hf:org/name@revision`.

`fetch` brings the files that recjax reads into the cache of huggingface_hub and returns the name with the commit,
`hf:org/name@<40 digits>`. Configs hold this name; `path` finds its folder without the network.
"""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
from typing import NamedTuple

from etils import epath
import huggingface_hub
from huggingface_hub import constants, errors, utils

from recjax.models.pretrained import ids, json_file, special_ids, tokenizer_files, weight_files
from recjax.runtime import lock
from recjax.runtime.files import write_whole

PREFIX = 'hf:'
_NAME = re.compile(r'hf:(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)(@(?P<revision>[^@\s]+))?')
_COMMIT = re.compile(r'[0-9a-f]{40}')
_FIELD = '--config.model.pretrained'
_SMALL = (
  ids.FILE,  # an exported folder knows its semantic IDs
  *special_ids.FILES,
  *tokenizer_files.ALL,
  weight_files.FILE,
  weight_files.INDEX,
)
_AGAIN = 'The same command continues the download'

log = logging.getLogger(__name__)


class _Name(NamedTuple):
  """The parts of a name; revision '' is the repository's default."""

  repo: str
  revision: str

  @property
  def is_commit(self) -> bool:
    return _COMMIT.fullmatch(self.revision) is not None

  def at(self, commit: str) -> str:
    return f'{PREFIX}{self.repo}@{commit}'


def is_name(pretrained: os.PathLike | str | None) -> bool:
  """Returns whether a value of `model.pretrained` names a checkpoint of the hub."""
  return isinstance(pretrained, str) and pretrained.startswith(PREFIX)


def _parsed(name: str) -> _Name:
  found = _NAME.fullmatch(name)
  with contextlib.suppress(errors.HFValidationError):
    # The parts of a revision become folders of the cache.
    if found and not {'', '.', '..'} & {*(found['revision'] or 'main').split('/')}:
      utils.validate_repo_id(found['repo'])
      return _Name(found['repo'], found['revision'] or '')
  raise ValueError(
    f'a checkpoint of the hub must be named as hf:organisation/name or hf:organisation/name@revision; got '
    f'{name!r}. Set {_FIELD}'
  )


def path(folder: epath.PathLike) -> epath.Path:
  """Returns the folder of a checkpoint: the path itself, or the cached snapshot of a name with a commit.

  Raises:
    ValueError: the name has no commit; see `fetch`.
  """
  if not is_name(folder):
    return epath.Path(folder)
  name = _parsed(folder)
  if not name.is_commit:
    raise ValueError(
      f'{folder} must be fetched before it is used: recjax.models.pretrained.fetch does that, and returns its '
      'name with the commit'
    )
  return _snapshot(name.repo, name.revision)


def _repo_folder(repo: str) -> epath.Path:
  return epath.Path(constants.HF_HUB_CACHE) / f'models--{repo.replace("/", "--")}'


def _snapshot(repo: str, commit: str) -> epath.Path:
  return _repo_folder(repo) / 'snapshots' / commit


def resolve(pretrained: str, known: str | None = None) -> str:
  """Returns the name of a checkpoint with the commit; downloads nothing.

  If the hub cannot be reached or refuses, the commit of a complete snapshot in the cache is used.

  Args:
    pretrained: such as `hf:google/flan-t5-base`; without a revision the default branch.
    known: the name with the commit that a run recorded. It is used if `pretrained` names no revision of the same
      repository.

  Raises:
    ValueError: the name is not well formed, or the repository holds no weights that recjax reads.
    OSError: the hub refuses or cannot be reached; one line.
  """
  name = _parsed(pretrained)
  if known is not None and not name.revision and _parsed(known).repo == name.repo:
    name = _parsed(known)
  if name.is_commit and _is_complete(name.repo, name.revision):
    return name.at(name.revision)
  try:
    info = _info(name)
  except OSError as error:
    commit = _cached_commit(name)
    if commit is None or isinstance(error.__cause__, errors.RevisionNotFoundError):
      raise
    log.warning('the hub is not used (%s): the cache holds %s', error, name.at(commit))
    return name.at(commit)
  _check_weights(name, [file.rfilename for file in info.siblings or ()])
  return name.at(info.sha)


def _info(name: _Name) -> huggingface_hub.ModelInfo:
  """Returns the commit and the files of a revision, as the hub knows them."""
  try:
    with _translated(name):
      return huggingface_hub.HfApi().model_info(
        name.repo, revision=name.revision or None, timeout=constants.HF_HUB_ETAG_TIMEOUT
      )
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ConnectionError(
      f'{constants.ENDPOINT} must be a hub; its answer for {PREFIX}{name.repo} is not that of one. Set HF_ENDPOINT, '
      'or see whether a proxy answers'
    ) from error


def fetch(pretrained: str, asked: str | None = None) -> str:
  """Downloads a checkpoint of the hub unless the cache holds it, and returns its name with the commit.

  One process of a host downloads, the others wait. A download that was interrupted continues.

  Args:
    pretrained: see `resolve`.
    asked: the name that the user gave, if `pretrained` is what `resolve` made of it. The cache then knows the
      commit of its revision, for starts without the network.

  Raises:
    ValueError: see `resolve`.
    OSError: see `resolve`; or a file is damaged or cannot be written.
  """
  name = _parsed(resolve(pretrained))
  if _is_complete(name.repo, name.revision):
    return name.at(name.revision)
  locks = epath.Path(constants.HF_HUB_CACHE) / '.locks' / f'recjax--{name.repo.replace("/", "--")}'
  with _translated(name), lock.hold(locks, f'downloading {pretrained}', wait=True, field='HF_HOME'):
    if not _is_complete(name.repo, name.revision):
      _download(name)
    revision = _parsed(asked or pretrained).revision or constants.DEFAULT_REVISION
    if not _COMMIT.fullmatch(revision):
      ref = _repo_folder(name.repo) / 'refs' / revision
      ref.parent.mkdir(parents=True, exist_ok=True)
      write_whole(ref, name.revision)
  log.info('%s is in %s', name.at(name.revision), _snapshot(name.repo, name.revision))
  return name.at(name.revision)


def _cached_commit(name: _Name) -> str | None:
  """Returns the commit of a revision by the cache; None: the cache lacks the revision or one of its files."""
  commit = name.revision
  if not name.is_commit:
    ref = _repo_folder(name.repo) / 'refs' / (name.revision or constants.DEFAULT_REVISION)
    commit = ref.read_text().strip() if ref.is_file() else ''
  return commit if commit and _is_complete(name.repo, commit) else None


def _parts(folder: epath.Path) -> list[str]:
  """Returns the files of tensors that the index of a snapshot names."""
  index = folder / weight_files.INDEX
  names = json_file.field(index, json_file.read_json(index), 'weight_map', dict, {}).values()
  return sorted({name for name in names if isinstance(name, str)})


def _get(repo: str, commit: str, files: list[str] | tuple[str, ...], local: bool) -> None:
  # Special characters of glob patterns do not occur in file names that recjax reads.
  huggingface_hub.snapshot_download(
    repo,
    revision=commit,
    allow_patterns=list(files),
    local_files_only=local,
  )


def _is_complete(repo: str, commit: str) -> bool:
  """Returns whether the cache holds every file of a commit that recjax reads."""
  folder = _snapshot(repo, commit)
  try:
    _get(repo, commit, _SMALL, local=True)
    if parts := _parts(folder):
      _get(repo, commit, parts, local=True)
  except errors.LocalEntryNotFoundError:
    return False
  return (folder / 'config.json').exists() and (
    bool(parts) or (folder / weight_files.FILE).exists()
  )


def _check_weights(name: _Name, files: list[str]) -> None:
  """Raises a ValueError unless a repository holds config.json and safetensors."""
  wanted = {weight_files.FILE, weight_files.INDEX}
  if 'config.json' in files and wanted & set(files):
    return
  others = [file for file in files if file.endswith(('.bin', '.h5', '.msgpack', '.gguf', '.onnx'))]
  holds = ', '.join(others[:3]) if others else ', '.join(files[:3]) or 'no file'
  raise ValueError(
    f'{PREFIX}{name.repo} must hold config.json and {weight_files.FILE} (or {weight_files.INDEX}); it holds '
    f'{holds}. Set {_FIELD} to a repository with safetensors, or convert a copy of it to a folder'
  )


def _download(name: _Name) -> None:
  """Downloads the files of a commit and compares them with their hashes."""
  commit = name.revision
  log.info('fetching %s', name.at(commit))
  _get(name.repo, commit, _SMALL, local=False)
  folder = _snapshot(name.repo, commit)
  if parts := _parts(folder):
    _get(name.repo, commit, parts, local=False)
  for file in pathlib.Path(folder).iterdir():
    _check_hash(name, file)


def _check_hash(name: _Name, file: pathlib.Path) -> None:
  """Compares a file with its hash, the name of its blob in the cache; a damaged file is removed.

  Raises:
    OSError: the file is damaged.
  """
  blob = file.resolve()
  # Digits of the name → its hash: git's hash of a small file, SHA-256 of a large one.
  hashes = {40: hashlib.sha1, 64: hashlib.sha256}
  if len(blob.name) not in hashes or not re.fullmatch('[0-9a-f]+', blob.name):
    return
  digest = hashes[len(blob.name)]()
  if len(blob.name) == 40:
    digest.update(f'blob {blob.stat().st_size}\0'.encode())
  with blob.open('rb') as f:
    while chunk := f.read(1 << 24):
      digest.update(chunk)
  if digest.hexdigest() != blob.name:
    file.unlink()
    blob.unlink(missing_ok=True)
    raise OSError(
      f'{file.name} of {PREFIX}{name.repo} must have the hash {blob.name}; got {digest.hexdigest()}, and the '
      f'file was removed. {_AGAIN}'
    )


@contextlib.contextmanager
def _translated(name: _Name) -> Iterator[None]:
  """Turns errors of huggingface_hub into one line that says what to do."""
  where, page = f'{PREFIX}{name.repo}', f'{constants.ENDPOINT}/{name.repo}'
  try:
    yield
  except errors.GatedRepoError as error:
    raise PermissionError(
      f'{where} is gated: accept its licence at {page} while logged in, then set the environment variable '
      'HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens), or run `hf auth login`'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise FileNotFoundError(
      f'{where} must have the revision {name.revision!r}; it has none of that name. See {page}, and set '
      f'{_FIELD}'
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise FileNotFoundError(
      f'{where} must be a repository of the hub; {page} does not exist, or is private and needs HF_TOKEN. Set '
      f'{_FIELD}'
    ) from error
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    token = 'Check HF_TOKEN' if status in (401, 403) else 'Try again later'
    raise ConnectionError(f'the hub answered {status} for {where} ({page}). {token}') from error
  except (
    errors.HTTPError,  # of the HTTP library: refused, interrupted, timed out
    errors.OfflineModeIsEnabled,
    errors.LocalEntryNotFoundError,
    errors.FileMetadataError,
  ) as error:
    reason = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else _first_line(error)
    raise ConnectionError(
      f'{where} is not complete in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be '
      f'reached ({reason}). Connect once, or set {_FIELD} to a folder. {_AGAIN}'
    ) from error
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = 'Free space there, or set HF_HOME to another disk' if full else _AGAIN
    raise OSError(
      f'{where} could not be written to {constants.HF_HUB_CACHE}: {_first_line(error)}. {remedy}'
    ) from error


def _first_line(error: BaseException) -> str:
  """Returns the first line of an error or of its cause."""
  while error.__cause__ is not None:
    error = error.__cause__
  return f'{type(error).__name__}: {error}'.strip().splitlines()[0]
