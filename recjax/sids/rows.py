"""How the rows of SID codes begin in a pretrained table."""

from collections.abc import Callable, Mapping
import json

from etils import epath
import numpy as np


def read_keywords(path: epath.PathLike) -> dict[str, list[str]]:
  """Keywords by SID token, from a JSON list of `{token, keywords, …}` (the file format of TS-Rec).

  Raises:
    ValueError: the file is not such a list; the message names file and entry.
  """
  path = epath.Path(path)
  try:
    entries = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} must be JSON: {error}. Set --config.model.sid_keywords') from error
  if not isinstance(entries, list):
    raise ValueError(f'{path} must hold a list of entries. Set --config.model.sid_keywords')
  keywords = {}
  for n, entry in enumerate(entries):
    words = entry.get('keywords') if isinstance(entry, dict) else None
    if (
      not isinstance(words, list)
      or not all(isinstance(w, str) for w in words)
      or 'token' not in entry
    ):
      raise ValueError(
        f'{path}, entry {n}, must be an object with a token and a list of keywords; got '
        f'{json.dumps(entry)[:80]}. Set --config.model.sid_keywords'
      )
    keywords[entry['token']] = words
  return keywords


def semantic_rows(
  text_VD: np.ndarray,
  names: list[str],
  keywords: Mapping[str, list[str]],
  encode: Callable[[str], list[int]],
) -> np.ndarray:
  """SA-Init (TS-Rec, arXiv 2602.22632): a SID row is the mean of the rows of its keywords' pieces.

  The mean runs over all pieces of all keywords, and is rescaled to the mean norm of the table's rows.

  Args:
    text_VD: float32, the pretrained rows of the text pieces (of the input or of an untied output).
    names: the SID tokens in the order of their rows.
    keywords: of each token; a token without any becomes the mean row, rescaled alike.
    encode: a text to ids of `text_VD`, without BOS or EOS.

  Returns:
    float32 `[len(names), D]`.

  Raises:
    ValueError: no token has keywords: the names are of another code space.
  """
  if not any(keywords.get(name) for name in names):
    raise ValueError(
      f'the keywords must be of SID tokens such as {names[0]!r}; the file has '
      f'{", ".join(sorted(keywords)[:3]) or "none"}. Set --config.model.sid_keywords'
    )
  norm = np.linalg.norm(text_VD, axis=1).mean()
  mean_D = text_VD.mean(axis=0)
  rows = np.empty((len(names), text_VD.shape[1]), np.float32)
  for i, name in enumerate(names):
    ids = encode(' '.join(keywords.get(name, [])))
    row_D = text_VD[ids].mean(axis=0) if ids else mean_D
    rows[i] = row_D * (norm / max(np.linalg.norm(row_D), 1e-6))
  return rows
