"""The stage of text embeddings: item texts to unit vectors, by the encoder that `sids.encoder` names."""

from collections.abc import Mapping
import hashlib
import json
import logging
from typing import Any

from etils import epath
import numpy as np

from data_prep import encoders, files
from data_prep import stage as stage_lib
from data_prep.encoders import tfidf, vectors_file
from data_prep.sids import refresh
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.schema.sids import Sids
from recjax.sharding import mesh as mesh_lib

log = logging.getLogger(__name__)

NAME = files.TEXT_VECTORS.partition('/')[0]
PARTS = f'.{NAME}.parts'  # in the prepared folder, until all is prepared: what outlives a kill
_VERSION = 2


def is_needed(config: config_lib.Config) -> bool:
  """Whether anything reads the vectors: the quantizer, or lists of semantic neighbours."""
  is_quantized = config.sids.quantizer != 'import' and config.sids.source != 'cooccurrence'
  return is_quantized or config.needs('semantic')


def check_ready(config: config_lib.Config, root: epath.Path) -> None:
  """Ends a first preparation before it begins if there is no encoder at its end.

  Raises:
    ValueError: the encoder is not there, or is none; once there are vectors it need not be.
  """
  if is_needed(config) and not (root / NAME).exists():
    encoders.input_files(config.sids.encoder)


def stage(config: config_lib.Config, root: epath.Path) -> stage_lib.Stage:
  """Reads items.jsonl and writes embeddings.npy, and for tfidf also its fit.

  With `sids.extend` vectors lie in the earlier folder's space: tfidf takes over the fit, and a model
  encodes the texts that it has not encoded there.

  Raises:
    ValueError: the encoder is not there and has not been used; the earlier folder's is another one.
  """
  sids = config.sids
  kind = encoders.kind(sids.encoder)
  inputs = stage_lib.outputs(root, files.ITEMS) | _encoder_files(sids.encoder, root)
  params = _params(kind, sids)
  if sids.extend is not None:
    params = refresh.params(sids, NAME, params)
    inputs |= refresh.inputs(sids, *_earlier_files(kind))

  def run(out: epath.Path) -> dict[str, Any]:
    items = tokenizer.read_items(root / files.ITEMS)
    item_texts = [item['text'] for item in items]
    if kind == 'tfidf':
      vectors_ID = _tfidf(item_texts, sids, out)
    elif kind == 'file':
      vectors_ID = vectors_file.read(epath.Path(sids.encoder), [item['id'] for item in items])
    else:
      vectors_ID = _model(item_texts, config, root, inputs, params)
    return files.save_vectors(vectors_ID, out)

  return stage_lib.Stage(NAME, run, inputs, params, _VERSION)


def forget_parts(root: epath.Path) -> None:
  """Removes what was kept for a run after a kill, once the stage is finished."""
  (root / PARTS).rmtree(missing_ok=True)


def _params(kind: str, sids: Sids) -> dict[str, Any]:
  if kind == 'file':
    return {'kind': kind}
  if kind == 'tfidf':
    return {'kind': kind, 'width': sids.tfidf_width, 'seed': sids.seed}
  return {'kind': kind, 'max_tokens': sids.encoder_max_tokens, 'dtype': sids.encoder_dtype}


def _encoder_files(encoder: str, root: epath.Path) -> dict[str, epath.Path]:
  """The encoder's files by their place in its folder, so that it may be moved."""
  try:
    found = encoders.input_files(encoder)
  except ValueError:
    # A machine that only trains need not have the encoder: what it made is there and is named.
    manifest = stage_lib.read_manifest(root / NAME)
    names = [name for name in (manifest or {}).get('inputs', {}) if name.startswith('encoder/')]
    if not names:
      raise
    log.info(
      'sids.encoder=%s is not here; it is taken for the one that %s names', encoder, root / NAME
    )
    found = {name: epath.Path(encoder) / name for name in (n[len('encoder/') :] for n in names)}
  return {f'encoder/{name}': path for name, path in found.items()}


def _earlier_files(kind: str) -> tuple[str, ...]:
  """What is read of the folder that `sids.extend` names."""
  if kind == 'file':
    return ()
  if kind == 'tfidf':
    return tuple(f'{NAME}/{name}' for name in tfidf.FILES)
  return (files.ITEMS, files.TEXT_VECTORS)


def _tfidf(item_texts: list[str], sids: Sids, out: epath.Path) -> np.ndarray:
  if sids.extend is None:
    fit, vectors_ID = tfidf.fit(item_texts, sids.tfidf_width, sids.seed)
  else:
    fit = tfidf.Fit.load(epath.Path(sids.extend) / NAME)
    vectors_ID = fit.encode(item_texts)
  fit.save(out)  # for the day after
  return vectors_ID


def _model(
  item_texts: list[str],
  config: config_lib.Config,
  root: epath.Path,
  inputs: Mapping[str, epath.Path],
  params: Mapping[str, Any],
) -> np.ndarray:
  hashes = {name: _sha256(path) for name, path in inputs.items()}
  identity = json.dumps([_VERSION, hashes, params], sort_keys=True)
  parts = root / PARTS / hashlib.sha256(identity.encode()).hexdigest()[:16]
  mesh = mesh_lib.make_mesh(config.mesh)
  if config.sids.extend is None:
    vectors_ID = encoders.encode(item_texts, config.sids, mesh, parts)
  else:
    _check_same_encoder(config.sids, hashes)
    vectors_ID = _extended(item_texts, config.sids, mesh, parts)
  return _checked(vectors_ID, config.sids)


def _extended(item_texts, sids: Sids, mesh, parts: epath.Path) -> np.ndarray:
  """Vectors of which the earlier folder gives those of its texts, and the model the others."""
  earlier = epath.Path(sids.extend)
  known = {item['text']: i for i, item in enumerate(tokenizer.read_items(earlier / files.ITEMS))}
  rows_I = np.array([known.get(text, -1) for text in item_texts], np.int64)
  vectors_ID = refresh.carried(rows_I, files.load(earlier / files.TEXT_VECTORS))
  new = np.flatnonzero(rows_I < 0)
  if len(new):
    vectors_ID[new] = encoders.encode([item_texts[i] for i in new], sids, mesh, parts)
  return vectors_ID


def _check_same_encoder(sids: Sids, hashes: Mapping[str, str]) -> None:
  recorded = stage_lib.read_manifest(epath.Path(sids.extend) / NAME)['inputs']
  different = [
    name.removeprefix('encoder/')
    for name in sorted({*recorded, *hashes})
    if name.startswith('encoder/') and recorded.get(name) != hashes.get(name)
  ]
  if different:
    raise ValueError(
      f'sids.encoder must be the encoder of {sids.extend}, or new vectors lie in another space; these '
      f'files differ: {", ".join(different)}. Set --config.sids.encoder'
    )


def _checked(vectors_ID: np.ndarray, sids: Sids) -> np.ndarray:
  bad = np.flatnonzero(~np.isfinite(vectors_ID).all(axis=1))
  if len(bad):
    raise ValueError(
      f'the encoder must give finite numbers; {sids.encoder} gives others for {len(bad)} texts, such as '
      f'that of line {bad[0] + 1} of items.jsonl. Set --config.sids.encoder_dtype=float32, or '
      '--config.sids.encoder'
    )
  return vectors_ID


def _sha256(path: epath.Path) -> str:
  with path.open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
