"""The daily refresh: extends the SIDs of an earlier preparation, which `sids.extend` names, to new items.

Items are matched by their raw ids. Old items keep their SIDs. The codebooks, the vector space and a trained
tokenizer are taken from the earlier preparation. Every prepared folder holds all files that the next refresh
needs.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import files
from data_prep import stage as stage_lib
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.runtime.files import flat
from recjax.schema.sids import Sids

_NEEDED = ('interactions', 'tokenizer', 'sids')
_VECTORS = ('text_embeddings', 'cooccurrence_vectors')
_DAILY_PARAMS = ('extend', 'items')  # may differ between two days


def check(config: config_lib.Config, root: epath.Path) -> None:
  """Checks `sids.extend` before the first stage runs.

  Raises:
    ValueError: `sids.extend` names `root` itself, or no prepared folder, or several preparations; or all SIDs in
      `root` extend earlier ones and `sids.extend` is not set, so items would get other SIDs than those that a
      model was trained with.
  """
  is_extended = [bool(m['params'].get('extend')) for m in stage_lib.variants(root, 'sids').values()]
  if config.sids.extend is None:
    if is_extended and all(is_extended):
      raise ValueError(
        f'the SIDs in {root} extend those of an earlier folder; without sids.extend items would get other '
        'SIDs. Set --config.sids.extend to that folder, or --config.data.prepared_dir to a new one'
      )
    return
  folder = extended_root(config.sids)
  if folder.expanduser().resolve() == root.expanduser().resolve():
    raise ValueError(
      f'sids.extend must not be the folder to prepare; both are {root}. '
      'Set --config.data.prepared_dir'
    )
  missing = [name for name in _NEEDED if not stage_lib.variants(folder, name)]
  # After its SIDs were extended, the earlier folder may be removed.
  if missing and (not any(is_extended) or folder.exists()):
    raise ValueError(
      f'sids.extend must be a prepared folder; {folder} lacks {", ".join(missing)}. '
      'Set --config.sids.extend'
    )
  earlier(config.sids)


def extended_root(sids: Sids) -> epath.Path:
  """Returns the earlier prepared folder: `sids.extend`, or its parent if `sids.extend` is a SID folder."""
  folder = epath.Path(sids.extend)
  manifest = stage_lib.read_manifest(folder)
  return folder if manifest is None else folder.parent


def earlier(sids: Sids) -> Prepared:
  """Returns the stage folders of the earlier preparation: the folders that its SIDs were built from.

  `sids.extend` names the prepared folder. If that holds several SID tables, it names the folder of one table.

  Raises:
    ValueError: several folders of a stage match; the message lists them.
  """
  root, named = extended_root(sids), epath.Path(sids.extend)
  tables = stage_lib.variants(root, 'sids')
  if named != root:
    tables = {folder: manifest for folder, manifest in tables.items() if folder.name == named.name}
  if not tables:  # the earlier folder was removed
    return Prepared(root)
  table = _single(root, tables)
  inputs = tables[table]['inputs']
  items_hash = inputs.get(files.ITEMS)
  folders = {'sids': table.name}
  interactions = {
    folder: manifest
    for folder, manifest in stage_lib.variants(root, 'interactions').items()
    if manifest['files']['items.jsonl']['sha256'] == items_hash
  }
  if interactions:  # all hold the same catalogue, the only file that is read
    folders['interactions'] = next(iter(interactions)).name
  for name in ('tokenizer', *_VECTORS):
    fitting = stage_lib.variants(root, name)
    if (vectors := inputs.get(f'{name}/{files.VECTORS}')) is not None:
      fitting = {f: m for f, m in fitting.items() if m['files'][files.VECTORS]['sha256'] == vectors}
    elif len(fitting) > 1:
      fitting = {f: m for f, m in fitting.items() if m['inputs'].get(files.ITEMS) == items_hash}
    if fitting:
      folders[name] = _single(root, fitting).name
  return Prepared(root, folders)


def _single(root: epath.Path, found: Mapping[epath.Path, Any]) -> epath.Path:
  """The first folder of `found`; raises a ValueError if there are several with different files."""
  if len({json.dumps(manifest['files'], sort_keys=True) for manifest in found.values()}) > 1:
    raise ValueError(
      f'sids.extend must name one preparation; {root} holds several folders of a stage: '
      f'{", ".join(map(os.fspath, found))}. Set --config.sids.extend to one of its SID folders, or run '
      '--mode=prepare --prune with the config of the earlier preparation, which removes the others'
    )
  return next(iter(found))


def inputs(sids: Sids, *names: str) -> dict[str, epath.Path]:
  """Returns files of the earlier preparation (`stage/file`) as the inputs of a stage."""
  folder = earlier(sids)
  return {f'extend/{name}': folder / name for name in names}


def params(sids: Sids, stage: str, today: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the params of a stage that extends the earlier one of the same name.

  Args:
    sids: `extend` names the earlier preparation.
    stage: name of the stage.
    today: the params of the stage without `extend`.

  Raises:
    ValueError: `today` differs from the params of the earlier stage; the message names the differences.
  """
  manifest = stage_lib.read_manifest(earlier(sids) / stage)
  recorded = {} if manifest is None else flat(manifest['params'])
  current = flat(json.loads(json.dumps(today)))  # as in a manifest: tuples become lists
  different = [
    f'{name} ({recorded.get(name)!r} earlier, {current.get(name)!r} now)'
    for name in sorted({*recorded, *current} - {*_DAILY_PARAMS})
    if manifest is not None and recorded.get(name) != current.get(name)
  ]
  if different:
    raise ValueError(
      f'sids.extend must be a folder that was prepared with the same settings; its {stage} differ in '
      f'{", ".join(different)}. Set these fields to the earlier values, or build new SIDs without '
      '--config.sids.extend'
    )
  return {**today, 'extend': True}


def item_rows(sids: Sids, today: Sequence[str]) -> np.ndarray:
  """Returns int64 `[I]`: the earlier index of each of today's items; -1 for new items.

  Raises:
    ValueError: all items are new.
  """
  before = pa.array(item_ids(earlier(sids)), pa.large_string())
  found = pc.index_in(pa.array(today, pa.large_string()), before)
  rows_I = found.fill_null(-1).to_numpy().astype(np.int64)
  if (rows_I < 0).all():
    raise ValueError(
      f'the log must hold items of the earlier preparation, {sids.extend}; none of its {len(before):,} items, such '
      f'as {before[0].as_py() if len(before) else None!r}, is among the {len(today):,} items of the log, such as {today[0]!r}. Set the '
      'folder of the raw files and the column of the items to those of the same catalogue'
    )
  return rows_I


def item_ids(prepared: Prepared) -> list[str]:
  """Returns the raw ids of the items of a prepared folder, in item order."""
  return [row['id'] for row in files.each_item(prepared / files.ITEMS)]


def carried(rows_I: np.ndarray, earlier_ID: np.ndarray) -> np.ndarray:
  """Returns the earlier rows of today's items, `[I, D]`; zero rows for new items."""
  return np.where((rows_I >= 0)[:, None], earlier_ID[rows_I], 0)
