"""Answers that were paid for: a line each, forced to the disk before the next is asked for."""

import json
import os
import pathlib
import threading
from typing import Any

_FIELDS = ('model', 'keywords', 'description', 'usage')


class Journal:
  """A JSON-lines file of answers by question; several threads may add to it.

  A line that a kill tore off is dropped, and its question is open again.

  Attributes:
    path: the file; created with the first answer.
    answers: by question, as in the file.

  Raises:
    ValueError: a whole line is not an answer; the message names it, and nothing is changed.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.answers: dict[str, dict[str, Any]] = {}
    self._lock = threading.Lock()
    self._whole = 0  # bytes of whole lines
    if self.path.exists():
      self._read()

  def add(self, question: str, answer: dict[str, Any]) -> None:
    """Keeps an answer; it is on the disk when this returns."""
    line = (json.dumps({'question': question, **answer}) + '\n').encode()
    with self._lock:
      with self.path.open('ab') as f:
        f.truncate(self._whole)  # of what a kill tore off
        f.write(line)
        f.flush()
        os.fsync(f.fileno())
      if not self._whole:
        _sync_folder(self.path.parent)
      self._whole += len(line)
      self.answers[question] = answer

  def _read(self) -> None:
    content = self.path.read_bytes()
    self._whole = content.rfind(b'\n') + 1
    for n, line in enumerate(content[: self._whole].splitlines(), start=1):
      try:
        fields = json.loads(line)
        question = fields.pop('question')
        self.answers[question] = {name: fields[name] for name in _FIELDS}
      except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(
          f'{self.path}:{n} must be an answer of the teacher; it is damaged. Remove that line to have '
          'it asked again; the other lines are kept'
        ) from None


def _sync_folder(folder: pathlib.Path) -> None:
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
