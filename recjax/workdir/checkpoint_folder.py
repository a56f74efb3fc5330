"""The checkpoint folder of a run: steps and scores, checksums, and the removal of old steps.

  checkpoints/
    40/                 one folder per step, written by Orbax
      checksums.json    size and CRC-32C of every other file, and the score; written last
    index.json          the kept steps, with their scores

A folder with `checksums.json` is a checkpoint. A folder without it is damaged if the index lists its step;
otherwise its save was interrupted. Both files hold their own checksum.
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

_UNFINISHED = ('.orbax-checkpoint-tmp', '.partial')  # names of interrupted writes
_NAMED = 3  # damaged files that a message lists
# Seconds to wait for the slowest process to read its share of the files, and the name of this limit.
_LIMIT = (1200, 'the limit of reading a checkpoint')


class CheckpointFolder:
  """The checkpoints in a folder. Every process has the same view; only process 0 writes and removes files.

  Every process must make the same calls in the same order, because the processes share the reading.

  Attributes:
    path: the folder.
  """

  def __init__(self, path: epath.Path, max_to_keep: int = 1, read_only: bool = False):
    self.path = path
    self._max_to_keep = max_to_keep
    self._is_read_only = read_only
    self._scores: dict[int, float | None] = {}
    self._undamaged: set[int] = set()
    self._damaged: dict[int, str] = {}
    self._load()

  @property
  def steps(self) -> list[int]:
    """The kept steps, ascending; they are not checked for damage."""
    return sorted(self._scores)

  def newest(self) -> int | None:
    """Returns the newest undamaged step; None if nothing was ever saved.

    Raises:
      ValueError: every checkpoint is damaged.
    """
    step = self._search(lambda: sorted(self._scores, reverse=True))
    if step is None and self._damaged:
      problems = '; '.join(f'{step}: {text}' for step, text in sorted(self._damaged.items()))
      raise ValueError(
        f'{self.path} must hold an undamaged checkpoint; every one is damaged ({problems}). Restore one from '
        'a backup, or give a new --workdir to start from step 0'
      )
    return step

  def best(self) -> int | None:
    """Returns the undamaged step with the highest score, or the newest if none has a score.

    Raises:
      ValueError: every checkpoint is damaged.
    """

    def scored() -> list[int]:
      found = [(score, step) for step, score in self._scores.items() if score is not None]
      return [step for _, step in sorted(found, reverse=True)]

    step = self._search(scored)
    return self.newest() if step is None else step

  def check_undamaged(self, step: int) -> None:
    """Raises a ValueError if a checkpoint is missing or damaged.

    A step that `newest` or `best` just returned is not read again.
    """
    if step not in self._undamaged and self._first_undamaged([step]) is None:
      raise ValueError(f'checkpoint {step} in {self.path} is damaged: {self._damaged[step]}')

  def commit(self, step: int, score: float | None) -> None:
    """Writes the checksums of a step, which makes it a checkpoint, and removes old steps.

    Call it after all files of the step are written. It uses no device, so a background thread may call it.
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

  def score(self, step: int, score: float | None) -> None:
    """Adds the score to a checkpoint that was saved without one."""
    self._scores[step] = score
    if distributed.is_host0():
      file = self.path / str(step) / checksums.FILE
      checksums.write_json(file, checksums.read_json(file) | {'score': score})
      checksums.write_json(self.path / INDEX, sorted(self._scores.items()))

  def discard(self, step: int) -> None:
    """Drops a step that cannot be read back: it is no checkpoint any more, but its files stay."""
    self._scores.pop(step, None)
    self._undamaged.discard(step)
    if distributed.is_host0():
      (self.path / str(step) / checksums.FILE).unlink(missing_ok=True)
      checksums.write_json(self.path / INDEX, sorted(self._scores.items()))

  def was_removed(self, step: int) -> bool:
    """Reads the folder again; returns whether the training run has removed a step since."""
    before = set(self._scores)
    self._load()
    return self._is_read_only and step in before - set(self._scores)

  def _load(self) -> None:
    """Reads steps and scores. Drops the results of earlier damage checks, which may be outdated."""
    found = self._open() if distributed.is_host0() else None
    self._scores = dict(distributed.from_host0('checkpoints', found))
    self._undamaged.clear()
    self._damaged.clear()

  def _search(self, order: Callable[[], list[int]]) -> int | None:
    """Returns the first undamaged step in the given order; None if there is none.

    A reader starts again if the training run removed a step in the meantime.
    """
    self._undamaged.clear()
    while True:
      step = self._first_undamaged(order())
      unreadable = sorted(self._damaged)
      if not (self._is_read_only and unreadable and self._was_any_removed(unreadable)):
        return step

  def _was_any_removed(self, unreadable: list[int]) -> bool:
    """Reads the folder again; returns whether the training run has removed one of the unreadable steps.

    If not, these steps are damaged and stay excluded.
    """
    damaged = dict(self._damaged)
    self._load()
    if any(step not in self._scores for step in unreadable):
      return True
    self._damaged = damaged
    for step in unreadable:
      self._scores.pop(step)
    return False

  def _open(self) -> list[tuple[int, float | None]]:
    """Returns step and score of every checkpoint, damaged or not; removes the files of interrupted saves."""
    if not self.path.exists():
      return []
    scores = self._indexed()
    for path in self.path.iterdir():
      if not self._is_read_only and any(mark in path.name for mark in _UNFINISHED):
        if path.is_dir():
          path.rmtree()
        else:
          path.unlink()
      if not path.name.isdecimal() or int(path.name) in scores:
        continue
      try:
        scores[int(path.name)] = checksums.read_json(path / checksums.FILE)['score']
      except FileNotFoundError:
        if not self._is_read_only:  # for a reader, the save may be running
          log.warning(
            'checkpoint %s in %s is not used: its save was interrupted', path.name, self.path
          )
      except (ValueError, OSError):
        scores[int(path.name)] = None  # damaged: `_first_undamaged` logs it
    return sorted(scores.items())

  def _indexed(self) -> dict[int, float | None]:
    try:
      return dict(checksums.read_json(self.path / INDEX))
    except FileNotFoundError:
      return {}
    except (ValueError, OSError) as error:
      log.warning('%s: %s; the next save rewrites the index', self.path, error)
      return {}

  def _first_undamaged(self, steps: list[int]) -> int | None:
    """Returns the first undamaged step; logs and excludes the damaged ones before it."""
    for step in steps:
      if step in self._undamaged:
        return step
      problem = self._problem(step)
      if not problem:
        self._undamaged.add(step)
        return step
      log.warning('checkpoint %d in %s is damaged and not used: %s', *(step, self.path, problem))
      self._damaged[step] = problem
      self._scores.pop(step, None)
    return None

  def _problem(self, step: int) -> str:
    """Returns the damage of a checkpoint, or ''; the processes share the reading of its files."""
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
        # This file goes first: after an interrupted removal the folder must not count as a checkpoint.
        (path / checksums.FILE).unlink(missing_ok=True)
        path.rmtree()


def _kept(scores: dict[int, float | None], num_newest: int) -> dict[int, float | None]:
  """Returns the newest `num_newest` checkpoints and the best one."""
  keep = sorted(scores)[-num_newest:]
  scored = [(score, step) for step, score in scores.items() if score is not None]
  keep += [step for _, step in sorted(scored)[-1:]]
  return {step: scores[step] for step in sorted(set(keep))}


def _read(folder: epath.Path) -> dict[str, Any] | str:
  """Returns the content of checksums.json, or a description of its damage."""
  try:
    return checksums.read_json(folder / checksums.FILE)
  except FileNotFoundError:
    return f'{checksums.FILE if folder.exists() else "the folder"} is missing'
  except (ValueError, OSError) as error:
    return str(error)


def _share(names: list[str]) -> list[str]:
  """Returns the part of a list that this process reads."""
  return names[jax.process_index() :: jax.process_count()]
