"""The folder of a run's checkpoints: which are there, whether they are whole, and which are kept.

  checkpoints/
    40/                 a folder a step, as Orbax wrote it
      checksums.json    size and CRC-32C of every other file and the score; written last
    index.json          the steps that are kept, with their scores

A checkpoint counts once its `checksums.json` is there. The index tells a folder that lost it from one
whose save was cut off. Both files notice their own damage.
"""

from collections.abc import Callable, Container
import json
import logging
from typing import Any

from etils import epath
import jax

from recjax.runtime import distributed
from recjax.workdir import checksums

log = logging.getLogger(__name__)

INDEX = 'index.json'

_PARTIAL = '.orbax-checkpoint-tmp'
_NAMED = 3  # damaged files in a message
# Seconds by which one process may take longer to read its share of the files.
_LIMIT = (1200, 'the limit of reading a checkpoint')


class CheckpointFolder:
  """The same view of the folder in every process; host 0 alone writes and removes.

  Every process must make the same calls in the same order: reading is shared between them.

  Attributes:
    path: the folder.
  """

  def __init__(self, path: epath.Path, max_to_keep: int = 1, read_only: bool = False):
    self.path = path
    self._max_to_keep = max_to_keep
    self._is_read_only = read_only
    self._scores: dict[int, float | None] = {}
    self._whole: set[int] = set()
    self._damaged: dict[int, str] = {}
    self._look()

  @property
  def steps(self) -> list[int]:
    """Those that are kept; whether they are whole is not looked at."""
    return sorted(self._scores)

  def newest(self) -> int | None:
    """The newest step that is whole; None where nothing was ever saved.

    Raises:
      ValueError: there were checkpoints, and none is whole.
    """
    step = self._first_of(lambda: sorted(self._scores, reverse=True))
    if step is None and self._damaged:
      what = '; '.join(f'{step}: {problem}' for step, problem in sorted(self._damaged.items()))
      raise ValueError(
        f'{self.path} must hold a whole checkpoint; every one is damaged ({what}). Restore one from a '
        'backup, or give a new --workdir to begin again'
      )
    return step

  def best(self) -> int | None:
    """The step with the highest score that is whole, or the newest where none has a score.

    Raises:
      ValueError: there were checkpoints, and none is whole.
    """

    def scored() -> list[int]:
      found = [(score, step) for step, score in self._scores.items() if score is not None]
      return [step for _, step in sorted(found, reverse=True)]

    step = self._first_of(scored)
    return self.newest() if step is None else step

  def check_whole(self, step: int) -> None:
    """Raises a ValueError where a checkpoint is not there or not whole.

    It is not read again where `newest` or `best` just named it.
    """
    if step not in self._whole and self._first_whole([step]) is None:
      raise ValueError(f'checkpoint {step} in {self.path} is damaged: {self._damaged[step]}')

  def commit(self, step: int, score: float | None) -> None:
    """Makes the step a checkpoint, once all its files are written, and removes what is not kept.

    Touches no device, so that a thread beside the training can call it.
    """
    folder = self.path / str(step)
    names = checksums.files_below(folder) if distributed.is_host0() else None
    names = distributed.from_host0('files of a checkpoint', names)
    part = checksums.checksums(folder, _share(names))
    parts = distributed.exchange('checksums of a checkpoint', json.dumps(part), *_LIMIT)
    kept = _kept(self._scores | {step: score}, self._max_to_keep)
    if distributed.is_host0():
      files = {name: file for part in parts for name, file in json.loads(part).items()}
      checksums.write_json(folder / checksums.FILE, {'score': score, 'files': files})
      checksums.write_json(self.path / INDEX, sorted(kept.items()))
      self._remove_all_but(kept)
    self._scores = kept
    self._damaged.pop(step, None)

  def score(self, step: int, score: float) -> None:
    """Gives its score to a checkpoint that was saved without one."""
    self._scores[step] = score
    if distributed.is_host0():
      file = self.path / str(step) / checksums.FILE
      checksums.write_json(file, checksums.read_json(file) | {'score': score})
      checksums.write_json(self.path / INDEX, sorted(self._scores.items()))

  def was_removed(self, step: int) -> bool:
    """Whether the run, which trains on, has removed a checkpoint that was read here; looks again."""
    before = set(self._scores)
    self._look()
    return self._is_read_only and step in before - set(self._scores)

  def _look(self) -> None:
    """Reads what there is; what was whole at the start of a run may no longer be at its end."""
    found = self._open() if distributed.is_host0() else None
    self._scores = dict(distributed.from_host0('checkpoints', found))
    self._whole.clear()
    self._damaged.clear()

  def _first_of(self, order: Callable[[], list[int]]) -> int | None:
    """The first step of an order that is whole; for readers, in what a run that trains on has left."""
    self._whole.clear()
    while True:
      step = self._first_whole(order())
      gone = sorted(self._damaged)
      if not (self._is_read_only and gone and self._has_moved_on(gone)):
        return step

  def _has_moved_on(self, gone: list[int]) -> bool:
    """Whether steps that could not be read are no longer kept; then what there is was read again."""
    damaged = dict(self._damaged)
    self._look()
    if any(step not in self._scores for step in gone):
      return True
    self._damaged = damaged
    for step in gone:
      self._scores.pop(step)
    return False

  def _open(self) -> list[tuple[int, float | None]]:
    """Step and score of everything that is or was a checkpoint; removes what kills left unfinished."""
    if not self.path.exists():
      return []
    scores = self._indexed()
    for path in self.path.iterdir():
      if _PARTIAL in path.name and not self._is_read_only:
        path.rmtree()
      if not path.name.isdecimal() or int(path.name) in scores:
        continue
      try:
        scores[int(path.name)] = checksums.read_json(path / checksums.FILE)['score']
      except FileNotFoundError:
        if not self._is_read_only:  # else it may be under way
          log.warning('checkpoint %s in %s is not used: its save was cut off', path.name, self.path)
      except (ValueError, OSError):
        scores[int(path.name)] = None  # damaged: it is named when its turn comes
    return sorted(scores.items())

  def _indexed(self) -> dict[int, float | None]:
    try:
      return dict(checksums.read_json(self.path / INDEX))
    except FileNotFoundError:
      return {}
    except (ValueError, OSError) as error:
      log.warning('%s: %s; the next checkpoint writes it again', self.path, error)
      return {}

  def _first_whole(self, steps: list[int]) -> int | None:
    """The first of some steps that is whole; those before are named and no longer used."""
    for step in steps:
      if step in self._whole:
        return step
      problem = self._problem(step)
      if not problem:
        self._whole.add(step)
        return step
      log.warning('checkpoint %d in %s is damaged and not used: %s', *(step, self.path, problem))
      self._damaged[step] = problem
      self._scores.pop(step, None)
    return None

  def _problem(self, step: int) -> str:
    """What is wrong with a checkpoint, or nothing; the processes share the reading of its files."""
    folder = self.path / str(step)
    expected = _read(folder) if distributed.is_host0() else None
    expected = distributed.from_host0('checksums that were written', expected)
    if isinstance(expected, str):
      return expected
    files = {name: expected['files'][name] for name in _share(sorted(expected['files']))}
    lines = json.dumps(checksums.damage(folder, files))
    lines = distributed.exchange('damage of a checkpoint', lines, *_LIMIT)
    lines = [line for part in lines for line in json.loads(part)]
    more = f' and {len(lines) - _NAMED} more files' if len(lines) > _NAMED else ''
    return ', '.join(lines[:_NAMED]) + more

  def _remove_all_but(self, kept: Container[int]) -> None:
    for path in self.path.iterdir():
      if path.name.isdecimal() and int(path.name) not in kept:
        # First this file: a folder whose removal is cut off must not look like a checkpoint.
        (path / checksums.FILE).unlink(missing_ok=True)
        path.rmtree()


def _kept(scores: dict[int, float | None], newest: int) -> dict[int, float | None]:
  """So many of the newest checkpoints, and the best one."""
  keep = sorted(scores)[-newest:]
  scored = [(score, step) for step, score in scores.items() if score is not None]
  keep += [step for _, step in sorted(scored)[-1:]]
  return {step: scores[step] for step in sorted(set(keep))}


def _read(folder: epath.Path) -> dict[str, Any] | str:
  """The content of checksums.json, or what is wrong with it."""
  try:
    return checksums.read_json(folder / checksums.FILE)
  except FileNotFoundError:
    return f'{checksums.FILE if folder.exists() else "the folder"} is missing'
  except (ValueError, OSError) as error:
    return str(error)


def _share(names: list[str]) -> list[str]:
  """The part of a list that this process works on."""
  return names[jax.process_index() :: jax.process_count()]
