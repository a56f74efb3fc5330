"""The journal of paid answers: one line per answer, synced to the disk before the next question."""

import json
import os
import pathlib
import threading
from typing import Any

from recjax.runtime import files

_FIELDS = ('model', 'keywords', 'description', 'usage')


class Journal:
  """A JSON-lines file of answers by question. Several threads may add to it.

  An incomplete last line, left by a kill, is dropped, and its question is asked again.

  Attributes:
    path: the file, which the first answer creates.
    answers: answers by the digest of their question.

  Raises:
    ValueError: a complete line is not an answer; the message names it.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.answers: dict[str, dict[str, Any]] = {}
    self._lock = threading.Lock()
    self._complete_bytes = 0  # size of the complete lines
    if self.path.exists():
      self._read()

  def add(self, question: str, answer: dict[str, Any]) -> None:
    """Appends an answer and syncs it to the disk."""
    line = (json.dumps({'question': question, **answer}) + '\n').encode()
    with self._lock:
      with self.path.open('ab') as f:
        f.truncate(self._complete_bytes)  # drops an incomplete line
        f.write(line)
        f.flush()
        os.fsync(f.fileno())
      if not self._complete_bytes:
        files.sync(self.path.parent)
      self._complete_bytes += len(line)
      self.answers[question] = answer

  def _read(self) -> None:
    content = self.path.read_bytes()
    self._complete_bytes = content.rfind(b'\n') + 1
    for n, line in enumerate(content[: self._complete_bytes].splitlines(), start=1):
      try:
        fields = json.loads(line)
        question = fields.pop('question')
        self.answers[question] = {name: fields[name] for name in _FIELDS}
      except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(
          f'{self.path}:{n} must be an answer of the teacher; it is damaged. Remove that line; its question is '
          'then asked again'
        ) from None
