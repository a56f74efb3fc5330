"""Encoders that run in the optional package sentence-transformers: slower, but it supports all its models."""

from collections.abc import Sequence
import importlib.util
import pathlib

from etils import epath
import numpy as np

from data_prep.encoders import resumable

PREFIX = 'sentence_transformers:'
_TEXTS_PER_BATCH = 1024  # the package splits them into smaller batches


def model_files(name: str) -> dict[str, epath.Path]:
  """Returns the files of a model's folder, by their path in it, without hidden files.

  Args:
    name: a folder, or a hub model that was downloaded to this machine. Nothing is downloaded.

  Raises:
    ValueError: the package is not installed, or the model is not on this machine.
  """
  folder = _folder(name)
  paths = [path for path in sorted(folder.rglob('*')) if path.is_file()]
  named = {path.relative_to(folder).as_posix(): epath.Path(path) for path in paths}
  return {
    name: path for name, path in named.items() if not any(p[0] == '.' for p in name.split('/'))
  }


def _folder(name: str) -> pathlib.Path:
  must = f'sids.encoder={PREFIX}{name} must'
  if importlib.util.find_spec('sentence_transformers') is None:
    raise ValueError(
      f'{must} find the package sentence-transformers, which is not installed. Install it (pip install '
      'sentence-transformers), or set --config.sids.encoder to another encoder'
    )
  if pathlib.Path(name).is_dir():
    return pathlib.Path(name)
  import huggingface_hub  # comes with sentence-transformers

  repository = name if '/' in name else f'sentence-transformers/{name}'
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{must} name a folder, or a hub model that was downloaded to this machine; neither exists. '
      f'Download it (hf download {repository}), or set --config.sids.encoder to another encoder'
    ) from error


def encode(
  texts: Sequence[str], name: str, max_tokens: int, dtype: str, parts: epath.Path | None
) -> np.ndarray:
  """Returns the normalised vectors of `SentenceTransformer(name).encode`.

  Args:
    texts: one text per item.
    name: see `model_files`.
    max_tokens: maximum tokens of a text; longer texts are cut. 0: the model's own setting.
    dtype: dtype of the model's weights and activations.
    parts: see `resumable.run`.

  Returns:
    float32 `[I, D]`.

  Raises:
    ValueError: see `model_files`.
  """
  folder = _folder(name)
  import sentence_transformers  # optional, and slow to import
  import torch

  model = sentence_transformers.SentenceTransformer(str(folder), local_files_only=True)
  model = model.to(getattr(torch, dtype)).eval()
  if max_tokens:
    model.max_seq_length = max_tokens

  def vectors(rows: np.ndarray | list[int]) -> np.ndarray:
    return model.encode(
      [texts[row] for row in rows], normalize_embeddings=True, show_progress_bar=False
    )

  order = np.argsort([-len(text) for text in texts], kind='stable')
  batches = np.split(order, range(_TEXTS_PER_BATCH, len(order), _TEXTS_PER_BATCH))
  width = vectors([0]).shape[1]
  return resumable.run(batches, lambda n: vectors(batches[n]), len(texts), width, parts)
