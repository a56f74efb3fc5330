"""The `text_embeddings` stage: encodes item texts as unit vectors with the encoder `sids.encoder`."""

from collections.abc import Mapping
import dataclasses
import logging
from typing import Any

from etils import epath
import numpy as np

from data_prep import encoders, files, refresh
from data_prep import stage as stage_lib
from data_prep.encoders import resumable, tfidf, vectors_file
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.runtime.files import digest, sha256
from recjax.schema.checks import check
from recjax.schema.sids import Sids
from recjax.sharding import mesh as mesh_lib

log = logging.getLogger(__name__)

NAME = files.TEXT_VECTORS.partition('/')[0]
PARTS = f'.{NAME}.parts'  # folder in the prepared folder; keeps finished parts after a kill
_VERSION = 2


def is_needed(config: config_lib.Config) -> bool:
  """Returns whether the config needs text vectors: for the quantizer, or for semantic neighbours."""
  is_quantized = config.sids.needs_vectors and config.sids.source != 'cooccurrence'
  return is_quantized or config.needs('semantic')


def resolved(config: config_lib.Config) -> config_lib.Config:
  """Returns the config with the encoder that `sids.encoder=auto` selects.

  A prepared folder keeps its encoder, because other vectors give other SIDs: also where the package of MiniLM is
  missing, or was installed later. A daily refresh keeps the encoder of the earlier preparation.
  """
  if config.sids.encoder != 'auto' or not is_needed(config):
    return config
  encoder, _ = _selected(config)
  return dataclasses.replace(config, sids=dataclasses.replace(config.sids, encoder=encoder))


def explain(config: config_lib.Config) -> None:
  """Logs which encoder `sids.encoder=auto` selects, and why."""
  if config.sids.encoder == 'auto' and is_needed(config):
    log.info('sids.encoder=auto is %s: %s', *_selected(config))


def _selected(config: config_lib.Config) -> tuple[str, str]:
  """The encoder of `sids.encoder=auto`, and the reason."""
  folders = list(stage_lib.variants(config.prepared_folder, NAME))
  if config.sids.extend is not None:
    folders = [refresh.earlier(config.sids) / NAME, *folders]
  encoders_by_kind = {'tfidf': 'tfidf', 'folder': 'minilm'}
  for folder in folders:
    manifest = stage_lib.read_manifest(folder)
    if manifest is not None and manifest['params']['kind'] in encoders_by_kind:
      return encoders_by_kind[manifest['params']['kind']], f'like the vectors in {folder}'
  if encoders.is_minilm_installed():
    return 'minilm', 'its package is installed'
  return 'tfidf', 'the package of MiniLM is not installed'


def check_ready(config: config_lib.Config, root: epath.Path) -> None:
  """Checks the encoder before the first stage runs.

  Raises:
    ValueError: the encoder is missing or invalid, and `root` holds no vectors from an encoder with its settings.
  """
  if is_needed(config) and not _manifests(config.sids, root):
    encoders.input_files(config.sids.encoder)


def _manifests(sids: Sids, root: epath.Path) -> list[dict[str, Any]]:
  """The manifests of vectors from an encoder with these settings."""
  wanted = _params(encoders.kind(sids.encoder), sids)
  wanted |= {'extend': True} if sids.extend is not None else {}
  manifests = stage_lib.variants(root, NAME).values()
  return [manifest for manifest in manifests if stage_lib.has_params(manifest, wanted)]


def stage(config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage that reads items.jsonl and writes embeddings.npy, and for tfidf also its fit.

  With `sids.extend` the vectors are in the space of the earlier preparation: tfidf reuses the earlier fit, and a
  model encodes only texts that are not in the earlier catalogue.

  Raises:
    ValueError: the encoder is missing and there are no vectors from it; or the earlier preparation used another
      encoder.
  """
  sids = config.sids
  kind = encoders.kind(sids.encoder)
  inputs = stage_lib.outputs(prepared, files.ITEMS) | _encoder_files(sids, prepared.root)
  params = _params(kind, sids)
  if sids.extend is not None:
    params = refresh.params(sids, NAME, params)
    inputs |= refresh.inputs(sids, *_earlier_files(kind))

  def run(out: epath.Path) -> dict[str, Any]:
    if kind == 'file':
      return files.save_vectors(
        vectors_file.read(epath.Path(sids.encoder), refresh.item_ids(prepared)), out
      )
    item_texts = [item['text'] for item in files.each_item(prepared / files.ITEMS)]
    if kind == 'tfidf':
      vectors_ID = _tfidf(item_texts, sids, out)
    else:
      vectors_ID = _encode_with_model(item_texts, config, prepared.root, inputs, params)
    return files.save_vectors(vectors_ID, out)

  return stage_lib.Stage(NAME, run, inputs, params, _VERSION)


def encode_share(
  config: config_lib.Config, prepared: Prepared, process: int, processes: int
) -> None:
  """Encodes one process's share of the item texts, and stores it beside the prepared folder's stages.

  The stage then reads the shares of all processes, and computes what is missing.

  Raises:
    ValueError: the encoder is no model; the preparation extends an earlier one; or the encoder is missing.
  """
  check(
    encoders.kind(config.sids.encoder) in ('folder', 'package'),
    'sids.encoder must be a model if several processes encode: other vectors take seconds',
    config.sids.encoder,
    'sids.encoder',
  )
  check(
    config.sids.extend is None,
    'sids.extend must be None if several processes encode: a refresh encodes new items alone',
    config.sids.extend,
    'sids.extend',
  )
  wanted = stage(config, prepared)
  hashes = {name: sha256(path) for name, path in wanted.inputs.items()}
  folder = _parts(prepared.root, hashes, wanted.params)
  item_texts = [item['text'] for item in files.each_item(prepared / files.ITEMS)]
  share = resumable.Share(folder, process, processes)
  encoders.encode(item_texts, config.sids, mesh_lib.make_mesh(config.mesh), share)


def remove_parts(prepared: Prepared) -> None:
  """Removes the stored parts of the finished vectors; parts of other encodings are kept."""
  manifest = stage_lib.read_manifest(prepared / NAME)
  if manifest is None or not (prepared.root / PARTS).exists():
    return
  _parts(prepared.root, manifest['inputs'], manifest['params']).rmtree(missing_ok=True)
  if not any((prepared.root / PARTS).iterdir()):
    (prepared.root / PARTS).rmtree()


def _parts(root: epath.Path, hashes: Mapping[str, str], params: Mapping[str, Any]) -> epath.Path:
  """The folder of the finished parts of an encoding."""
  return root / PARTS / digest([_VERSION, dict(hashes), dict(params)])


def _params(kind: str, sids: Sids) -> dict[str, Any]:
  if kind == 'file':
    return {'kind': kind}
  if kind == 'tfidf':
    return {'kind': kind, 'width': sids.tfidf_width, 'seed': sids.seed}
  return {'kind': kind, 'max_tokens': sids.encoder_max_tokens, 'dtype': sids.encoder_dtype}


def _encoder_files(sids: Sids, root: epath.Path) -> dict[str, epath.Path]:
  """The encoder's files by their path in its folder, so that the folder may be moved."""
  encoder = sids.encoder
  try:
    found = encoders.input_files(encoder)
  except ValueError:
    # If the vectors exist, a machine that only trains does not need the encoder.
    used = {
      tuple(sorted(item for item in manifest['inputs'].items() if item[0].startswith('encoder/')))
      for manifest in _manifests(sids, root)
    }
    if len(used) != 1 or used == {()}:  # no vectors, or vectors of several encoders
      raise
    log.info(
      'sids.encoder=%s does not exist; the vectors in %s are used as its output', encoder, root
    )
    names = [name.removeprefix('encoder/') for name, _ in next(iter(used))]
    found = {name: epath.Path(encoder) / name for name in names}
  return {f'encoder/{name}': path for name, path in found.items()}


def _earlier_files(kind: str) -> tuple[str, ...]:
  """The files that the stage reads from the earlier preparation."""
  if kind == 'file':
    return ()
  if kind == 'tfidf':
    return tuple(f'{NAME}/{name}' for name in tfidf.FILES)
  return (files.ITEMS, files.TEXT_VECTORS)


def _tfidf(item_texts: list[str], sids: Sids, out: epath.Path) -> np.ndarray:
  if sids.extend is None:
    fit, vectors_ID = tfidf.fit(item_texts, sids.tfidf_width, sids.seed)
  else:
    fit = tfidf.Fit.load(refresh.earlier(sids) / NAME)
    vectors_ID = fit.encode(item_texts)
  fit.save(out)  # for a later refresh
  return vectors_ID


def _encode_with_model(
  item_texts: list[str],
  config: config_lib.Config,
  root: epath.Path,
  inputs: Mapping[str, epath.Path],
  params: Mapping[str, Any],
) -> np.ndarray:
  hashes = {name: sha256(path) for name, path in inputs.items()}
  parts = _parts(root, hashes, params)
  mesh = mesh_lib.make_mesh(config.mesh)
  if config.sids.extend is None:
    vectors_ID = encoders.encode(item_texts, config.sids, mesh, parts)
  else:
    _check_same_encoder(config.sids, hashes)
    vectors_ID = _extend(item_texts, config.sids, mesh, parts)
  _check_finite(vectors_ID, config.sids)
  return vectors_ID


def _extend(item_texts, sids: Sids, mesh, parts: epath.Path) -> np.ndarray:
  """Copies the vectors of earlier texts, and encodes the other texts."""
  earlier = refresh.earlier(sids)
  row_by_text = {item['text']: i for i, item in enumerate(files.each_item(earlier / files.ITEMS))}
  rows_I = np.array([row_by_text.get(text, -1) for text in item_texts], np.int64)
  vectors_ID = refresh.carried(rows_I, files.load(earlier / files.TEXT_VECTORS))
  new = np.flatnonzero(rows_I < 0)
  if len(new):
    vectors_ID[new] = encoders.encode([item_texts[i] for i in new], sids, mesh, parts)
  return vectors_ID


def _check_same_encoder(sids: Sids, hashes: Mapping[str, str]) -> None:
  recorded = stage_lib.read_manifest(refresh.earlier(sids) / NAME)['inputs']
  different = [
    name.removeprefix('encoder/')
    for name in sorted({*recorded, *hashes})
    if name.startswith('encoder/') and recorded.get(name) != hashes.get(name)
  ]
  if different:
    raise ValueError(
      f'sids.encoder must be the encoder of {sids.extend}, so that new vectors are in the same space; these '
      f'files differ: {", ".join(different)}. Set --config.sids.encoder'
    )


def _check_finite(vectors_ID: np.ndarray, sids: Sids) -> None:
  bad = np.flatnonzero(~np.isfinite(vectors_ID).all(axis=1))
  if len(bad):
    raise ValueError(
      f'the encoder must give finite numbers; {sids.encoder} does not for {len(bad)} texts, such as line '
      f'{bad[0] + 1} of items.jsonl. Set --config.sids.encoder_dtype=float32, or --config.sids.encoder'
    )
