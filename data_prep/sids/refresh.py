"""The daily refresh: what a preparation takes over of the earlier one that `sids.extend` names.

Items are known by their raw ids. Old items keep their SIDs; the codebooks, the space of the vectors and a
trained tokenizer are the earlier ones, and every folder holds all that the next day needs.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.relations import cooccurrence
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.data.sequences import Sequences
from recjax.schema.sids import Sids
from recjax.sids import extension, published
from recjax.sids.quantizers.saved import FILE as QUANTIZER
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable

_TABLE = ('sids/codes.npy', 'sids/sids.json')
_NEEDED = ('interactions', 'tokenizer', 'sids')
_OF_THE_DAY = ('extend', 'items')  # params that may differ from one day to the next


def check(config: config_lib.Config, root: epath.Path) -> None:
  """Ends a preparation before it begins where `sids.extend` cannot be what is meant.

  Raises:
    ValueError: the folder extends itself or one that is not prepared; or its SIDs extend others, and
      without `sids.extend` they would be built anew, under every model that knows them.
  """
  made = stage_lib.read_manifest(root / 'sids')
  if config.sids.extend is None:
    if made is not None and made['params'].get('extend'):
      raise ValueError(
        f'the SIDs in {root} extend those of an earlier folder and would be lost if they were built '
        'anew. Set --config.sids.extend to that folder, or --config.data.prepared_dir to a new one'
      )
    return
  folder = epath.Path(config.sids.extend)
  if folder.expanduser().resolve() == root.expanduser().resolve():
    raise ValueError(
      f'sids.extend must be another folder than the prepared one; both are {root}. '
      'Set --config.data.prepared_dir'
    )
  missing = [name for name in _NEEDED if stage_lib.read_manifest(folder / name) is None]
  # Once extended, the earlier folder need not be there any more.
  if missing and (made is None or folder.exists()):
    raise ValueError(
      f'sids.extend must be a prepared folder; {folder} lacks {", ".join(missing)}. '
      'Set --config.sids.extend'
    )


def inputs(sids: Sids, *names: str) -> dict[str, epath.Path]:
  """Files of the earlier preparation (`stage/file`) as the inputs of a stage."""
  return {f'extend/{name}': epath.Path(sids.extend) / name for name in names}


def params(sids: Sids, stage: str, today: Mapping[str, Any]) -> dict[str, Any]:
  """The params of a stage that extends the earlier one of the same name.

  Args:
    sids: `extend` names the earlier folder.
    stage: its name.
    today: the params that the stage would have without `extend`.

  Raises:
    ValueError: they differ from the earlier ones; the message names them.
  """
  manifest = stage_lib.read_manifest(epath.Path(sids.extend) / stage)
  there = {} if manifest is None else _flat(manifest['params'])
  here = _flat(json.loads(json.dumps(today)))  # as in a manifest: tuples are lists there
  different = [
    f'{name} ({there.get(name)!r} there, {here.get(name)!r} here)'
    for name in sorted({*there, *here} - {*_OF_THE_DAY})
    if manifest is not None and there.get(name) != here.get(name)
  ]
  if different:
    raise ValueError(
      f'sids.extend must be a folder that was prepared as today; its {stage} differ in '
      f'{", ".join(different)}. Set these fields as then, or build SIDs anew without --config.sids.extend'
    )
  return {**today, 'extend': True}


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    nested = isinstance(value, Mapping)
    flat |= _flat(value, f'{prefix}{name}.') if nested else {prefix + name: value}
  return flat


def item_rows(sids: Sids, today: Sequence[str]) -> np.ndarray:
  """int64 `[I]`: the number that each of today's items had in the earlier folder; -1 for new items."""
  earlier = {item: i for i, item in enumerate(item_ids(epath.Path(sids.extend)))}
  return np.array([earlier.get(item, -1) for item in today], np.int64)


def item_ids(root: epath.Path) -> list[str]:
  """The raw ids of a prepared folder, in item order."""
  return [row['id'] for row in tokenizer.read_items(root / files.ITEMS)]


def carried(rows_I: np.ndarray, earlier_ID: np.ndarray) -> np.ndarray:
  """The earlier rows of today's items `[I, D]`; zero for new ones."""
  return np.where((rows_I >= 0)[:, None], earlier_ID[rows_I], 0)


def cooccurrence_inputs(sids: Sids) -> dict[str, epath.Path]:
  """What `cooccurrence_vectors` reads of the earlier preparation."""
  return inputs(sids, files.ITEMS, files.COOCCURRENCE_VECTORS, files.COOCCURRENCE_BASIS)


def cooccurrence_vectors(
  sids: Sids, today: Sequence[str], train: Sequences
) -> tuple[np.ndarray, np.ndarray]:
  """Vectors and basis `[I, D]` of today's items in the earlier space.

  Old items keep both. New ones are folded in by today's company among the old ones, and have no part
  in the basis.
  """
  rows_I, earlier = item_rows(sids, today), epath.Path(sids.extend)
  vectors_ID = carried(rows_I, files.load(earlier / files.COOCCURRENCE_VECTORS))
  basis_ID = carried(rows_I, files.load(earlier / files.COOCCURRENCE_BASIS))
  new = np.flatnonzero(rows_I < 0)
  vectors_ID[new] = cooccurrence.fold_in(train, new, sids.cooccurrence_window, basis_ID)
  return vectors_ID, basis_ID


def tokenizer_files(sids: Sids, root: epath.Path) -> dict[str, epath.Path]:
  """The files of the earlier tokenizer, as the inputs of today's."""
  earlier = stage_lib.read_manifest(epath.Path(sids.extend) / 'tokenizer')
  if earlier is not None:
    return inputs(sids, *(f'tokenizer/{name}' for name in sorted(earlier['files'])))
  made = stage_lib.read_manifest(root / 'tokenizer') or {}  # the earlier folder is gone
  names = [name for name in made.get('inputs', {}) if name.startswith('extend/')]
  return inputs(sids, *(name.removeprefix('extend/') for name in names))


def copy_tokenizer(sids: Sids, out: epath.Path) -> dict[str, Any]:
  """Copies the earlier tokenizer: the model knows its pieces."""
  manifest = stage_lib.read_manifest(epath.Path(sids.extend) / 'tokenizer')
  for name in manifest['files']:
    (out / name).write_bytes((epath.Path(sids.extend) / 'tokenizer' / name).read_bytes())
  return {**manifest['summary'], 'made': 'as before'}


def sid_inputs(sids: Sids) -> dict[str, epath.Path]:
  """What `sid_table` reads of the earlier preparation."""
  quantizer = () if sids.quantizer == 'import' else (f'sids/{QUANTIZER}',)
  return inputs(sids, files.ITEMS, *_TABLE, *quantizer)


def sid_table(
  sids: Sids,
  today: Sequence[str],
  vectors_ID: np.ndarray | None,
  table_file: epath.Path | None,
) -> tuple[SidTable, Quantizer | None]:
  """Today's table in the earlier code space, and the frozen quantizer where there is one.

  Args:
    sids: `extend` names the earlier folder.
    today: raw ids of today's items.
    vectors_ID: floats of today's items in the space that the quantizer was fitted to.
    table_file: the published table that the codes come from instead, or None.

  Raises:
    ValueError: there is no room for an item; the earlier files do not belong together; or the
      published table lacks an item or gives an old one other codes.
  """
  folder = epath.Path(sids.extend) / 'sids'
  earlier = SidTable.load(folder)
  rows_I = item_rows(sids, today)
  new = np.flatnonzero(rows_I < 0)
  if table_file is not None:
    codes_IQ = published.read(table_file, today, sids.codes)
    _check_unchanged(codes_IQ, earlier, rows_I, today, table_file)
    return extension.extend(earlier, rows_I, codes_IQ[new], None, today), None
  quantizer = Quantizer.load(folder)
  if quantizer.fingerprint != earlier.codebooks:
    raise ValueError(
      f'{folder} must hold the quantizer that its SIDs were made with, {earlier.codebooks}; it holds '
      f'{quantizer.fingerprint}. Prepare that folder again'
    )
  vectors_ND = vectors_ID[new]
  latents_NZ = quantizer.encode(vectors_ND)

  def others(n: int):
    return extension.nearest_codes(latents_NZ[n], quantizer.codebooks)

  return extension.extend(earlier, rows_I, quantizer.assign(vectors_ND), others, today), quantizer


def _check_unchanged(
  codes_IQ: np.ndarray,
  earlier: SidTable,
  rows_I: np.ndarray,
  today: Sequence[str],
  file: epath.Path,
) -> None:
  old = np.flatnonzero(rows_I >= 0)
  before_OQ = earlier.codes_IL[rows_I[old], : earlier.quantized_levels]
  changed = old[(codes_IQ[old] != before_OQ).any(axis=1)]
  if len(changed):
    item = changed[0]
    raise ValueError(
      f'{file} must give the items of sids.extend the codes that they have there; {len(changed)} differ, '
      f'such as {today[item]!r}: {codes_IQ[item].tolist()} here, '
      f'{earlier.codes_IL[rows_I[item]].tolist()} there. Mend the file, or build SIDs anew without '
      '--config.sids.extend'
    )
