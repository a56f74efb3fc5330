"""The `sids` stage: quantizes item vectors to codes, resolves collisions, and reports the quality."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import logging
import math
from typing import Any

from etils import epath
import numpy as np

from data_prep import files, refresh
from data_prep import stage as stage_lib
from data_prep.sids import extended
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.schema.checks import check
from recjax.schema.sids import Sids
from recjax.sids import code_sizes, grouping, published, quality
from recjax.sids.quantizers import collisions, residual_kmeans, rqvae, sinkhorn
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable
from recjax.sids.vectors import Vectors

_VECTORS = {
  'text': (files.TEXT_VECTORS,),
  'cooccurrence': (files.COOCCURRENCE_VECTORS,),
  'both': (files.TEXT_VECTORS, files.COOCCURRENCE_VECTORS),
}
_PAIRS_PER_ITEM = 5  # IIRG pairs an item with its five nearest collaborative neighbours
_FEW = 0.5  # share of the items, or of all codes if these are fewer

log = logging.getLogger(__name__)


def check_ready(config: config_lib.Config, root: epath.Path, raw_dir: epath.Path) -> None:
  """Checks the settings of SIDs before the first stage runs.

  Raises:
    FileNotFoundError: the table to import is missing, and `root` holds no imported SIDs.
    ValueError: see `refresh.check` and `refresh.params`; or the file is not a SID table.
  """
  refresh.check(config, root)
  manifests = stage_lib.variants(root, 'sids').values()
  sids = config.sids
  if sids.extend is not None:
    sids = dataclasses.replace(sids, codes=sids.codes or _earlier_codes(sids, manifests))
    refresh.params(sids, 'sids', _params(sids))
  if sids.table is None or any('table' in manifest['inputs'] for manifest in manifests):
    return
  table_file = files.find_file(sids.table, raw_dir)
  if not table_file.exists():
    raise FileNotFoundError(
      f'{sids.table} must exist, also relative to {raw_dir}. Set --config.sids.table'
    )
  published.read(table_file, (), sids.codes)


def with_codes(config: config_lib.Config, prepared: Prepared) -> config_lib.Config:
  """Returns the config with the numbers of codes; called as soon as the number of items is known.

  Empty `sids.codes` are chosen from the size of the catalogue. With `sids.extend` they are the earlier ones.

  Raises:
    ValueError: the catalogue has too few items for `sids.codes`.
  """
  sids, codes = config.sids, config.sids.codes
  num_items = stage_lib.read_manifest(prepared / 'interactions')['summary']['items']
  if sids.extend is not None:
    codes = codes or _earlier_codes(sids, stage_lib.variants(prepared.root, 'sids').values())
  elif sids.quantizer != 'import':
    codes = code_sizes.of_level(sids, num_items)
  return dataclasses.replace(config, sids=dataclasses.replace(sids, codes=codes))


def _earlier_codes(sids: Sids, own: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
  """The codes of the folder that `sids.extend` names; if it was removed, those of SIDs that extended it."""
  manifest = stage_lib.read_manifest(refresh.earlier(sids) / 'sids')
  known = [manifest] if manifest is not None else [m for m in own if m['params'].get('extend')]
  found = {tuple(manifest['params']['codes']) for manifest in known}
  check(
    len(found) == 1, 'sids.codes must be set: the earlier folder is gone', sids.codes, 'sids.codes'
  )
  return next(iter(found))


def stage(config: config_lib.Config, prepared: Prepared, raw_dir: epath.Path) -> stage_lib.Stage:
  """Returns the stage that reads the item vectors, and writes the SID table and the quantizer.

  Imported SIDs come from the file `sids.table`, whose path may be relative to `raw_dir`, and have no quantizer; nor
  have codes of items (`sids.quantizer='item'`).
  Besides `recjax.sids.table`, the stage writes table.json (the SIDs in the format of `recjax.sids.published`) and
  quality.json (the report of `recjax.sids.quality`).
  """
  sids = config.sids
  vectors = stage_lib.outputs(prepared, *(_VECTORS[sids.source] if sids.needs_vectors else ()))
  table_file = None if sids.table is None else files.find_file(sids.table, raw_dir)
  inputs = stage_lib.outputs(prepared, files.ITEMS) | vectors
  params = _params(sids)
  if table_file is not None:
    inputs['table'] = table_file
  if sids.extend is not None:
    inputs |= extended.inputs(sids)
    params = refresh.params(sids, 'sids', params)
  relations = stage_lib.outputs(prepared, *(files.COLLABORATIVE if _needs_pairs(sids) else ()))
  inputs |= relations

  def run(out: epath.Path) -> dict[str, Any]:
    item_ids, categories = _catalogue(prepared / files.ITEMS)
    # Both parts are unit vectors, so text and co-occurrence have equal weight in every distance.
    vectors_ID = Vectors([files.mapped(path) for path in vectors.values()]) if vectors else None
    resolved = {}
    if sids.extend is not None:
      sid_table, quantizer = extended.table(sids, item_ids, vectors_ID, table_file)
    elif table_file is not None:
      sid_table, quantizer = imported(sids, table_file, item_ids), None
    elif sids.quantizer == 'item':
      sid_table, quantizer = SidTable.of_items(item_ids, sids.codes[0]), None
    else:
      quantizer = fit(sids, vectors_ID, _pairs(relations) if relations else None)
      sid_table, resolved = resolve(sids, quantizer, vectors_ID, prepared / files.ITEMS)
    sid_table.save(out)
    published.write(out / published.FILE, item_ids, sid_table.codes_IL)
    if quantizer is not None:
      quantizer.save(out)
    # A code of a single item says nothing about its category.
    known = [] if sids.quantizer == 'item' else categories
    found = quality.assess(sid_table, vectors_ID, quantizer, known)
    quality.write(out, found | resolved)
    return sid_table.statistics() | resolved | _headline(found)

  return stage_lib.Stage('sids', run, inputs, params, version=2)


def _catalogue(path: epath.Path) -> tuple[list[str], list[tuple[str, ...] | None]]:
  """Returns the raw ids of all items, and their first category paths; equal paths are one object."""
  item_ids, paths, shared = [], [], {}
  for item in files.each_item(path):
    item_ids.append(item['id'])
    found = item.get('categories')
    first = tuple(found[0]) if found else None
    paths.append(shared.setdefault(first, first))
  return item_ids, paths


def _params(sids: Sids) -> dict[str, Any]:
  if sids.quantizer == 'item':
    return {'quantizer': 'item', 'codes': sids.codes}
  shared = {name: getattr(sids, name) for name in ('quantizer', 'codes', 'collisions')}
  if sids.quantizer == 'import':
    return shared
  fitted = {'source': sids.source, 'seed': sids.seed}
  if sids.quantizer == 'rqvae':
    fitted['rqvae'] = sids.rqvae.identifying()
  return shared | fitted


def imported(sids: Sids, table_file: epath.Path, item_ids: Sequence[str]) -> SidTable:
  """Returns the SID table of a published file. Collisions are kept, or resolved by an additional level."""
  codes_IL, sizes = published.read(table_file, item_ids, sids.codes), sids.codes
  if sids.collisions == 'deduplicate':
    codes_IL, size = collisions.deduplicate(codes_IL)
    sizes = (*sizes, size)
  return SidTable(codes_IL, sizes, sids.quantizer, sids.collisions)


def fit(
  sids: Sids, vectors_ID: np.ndarray | Vectors, pairs_P2: np.ndarray | None = None
) -> Quantizer:
  """Returns the quantizer that `sids.quantizer` names, fitted to item vectors `[I, D]`.

  Args:
    sids: the quantizer and its options.
    vectors_ID: floats, one vector per item.
    pairs_P2: int32 pairs of related items for the contrastive loss of an RQ-VAE.
  """
  if sids.quantizer == 'rqvae':
    return rqvae.fit(vectors_ID, sids.codes, sids.rqvae, sids.seed, pairs_P2)
  return residual_kmeans.fit(vectors_ID, sids.codes, sids.seed)


def resolve(
  sids: Sids, quantizer: Quantizer, vectors_ID: np.ndarray | Vectors, items: epath.Path
) -> tuple[SidTable, dict[str, int]]:
  """Quantizes item vectors `[I, D]`, and resolves collisions by the method `sids.collisions`.

  Warns if most items collide; `items` is the file of their texts.

  Returns:
    The SID table, and with 'sinkhorn' the number of items that were re-assigned.

  Raises:
    ValueError: see `sinkhorn.reassign`.
  """
  codes_IL, sizes, found = quantizer.assign(vectors_ID), sids.codes, {}
  _warn_of_collisions(sids, codes_IL, items)
  if sids.collisions == 'deduplicate':
    codes_IL, size = collisions.deduplicate(codes_IL)
    sizes = (*sizes, size)
  elif sids.collisions == 'sinkhorn':
    codes_IL, found = sinkhorn.reassign(quantizer, vectors_ID, codes_IL)
  fingerprint = quantizer.fingerprint
  return SidTable(codes_IL, sizes, sids.quantizer, sids.collisions, fingerprint), found


def _warn_of_collisions(sids: Sids, codes_IL: np.ndarray, items: epath.Path) -> None:
  distinct = len(grouping.groups(codes_IL)[1])
  if distinct >= _FEW * min(len(codes_IL), math.prod(sids.codes)):
    return
  texts = len({hash(item['text']) for item in files.each_item(items)})
  log.warning(
    'the %s items get only %s distinct semantic IDs before collisions are resolved (sids.collisions=%s), and have %s '
    'distinct texts: their vectors (sids.source=%s) hardly tell them apart. Show more of an item in its text '
    '(--config.data.text_format), or set --config.sids.source to %s',
    *(f'{count:,}' for count in (len(codes_IL), distinct)),
    sids.collisions,
    f'{texts:,}',
    sids.source,
    ' or '.join(source for source in _VECTORS if source != sids.source),
  )


def _needs_pairs(sids: Sids) -> bool:
  return sids.quantizer == 'rqvae' and sids.rqvae.contrastive_weight > 0 and sids.extend is None


def _pairs(relations: Mapping[str, epath.Path]) -> np.ndarray:
  """The pairs of each item with its nearest five collaborative neighbours, int32 `[P, 2]`."""
  lists = Sequences(*(files.load(path) for path in relations.values()))
  items = np.repeat(np.arange(len(lists), dtype=np.int32), lists.lengths)
  is_near = lists.places < _PAIRS_PER_ITEM
  return np.stack([items[is_near], lists.values[is_near].astype(np.int32)], axis=1)


def _headline(found: Mapping[str, Any]) -> dict[str, float]:
  """The figures of the quality report that the preparation prints."""
  line = {}
  if found['reconstruction_error']:
    line['variance_left'] = found['reconstruction_error'][-1]
  if found['neighbours_kept']:
    line['neighbours_kept'] = found['neighbours_kept']['recall']
  if found['purity']:
    line['purity'] = found['purity']['purity']
  return line
