"""Reads item vectors from a file: a `.npy` in the order of the catalogue, or a `.npz` with raw ids."""

from collections.abc import Sequence
import zipfile

from etils import epath
import numpy as np

_NAMES = {'.npy': {'vectors'}, '.npz': {'ids', 'vectors'}}


def read(path: epath.Path, item_ids: Sequence[str], field: str = 'sids.encoder') -> np.ndarray:
  """Reads the vectors of the items and normalises them.

  Args:
    path: `.npy`: floats `[I, D]`, one row per line of items.jsonl. `.npz`: arrays `ids` (texts `[n]`) and
      `vectors` (floats `[n, D]`); rows of other items are ignored.
    item_ids: the raw ids, in item order.
    field: the config field that names the file, for messages.

  Returns:
    float32 `[I, D]`, unit rows; zero rows stay zero.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the format is wrong; the number of rows differs from that of items; an item is missing or
      repeated; or a number is not finite. The message names examples.
  """
  try:
    with path.open('rb') as f:
      loaded = np.load(f, allow_pickle=False)
      arrays = {'vectors': loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise _error(path, field, f'must be a complete NumPy file without objects ({error})') from error
  if not _NAMES[path.suffix] <= arrays.keys():
    got = ', '.join(sorted(arrays)) or 'nothing'
    raise _error(
      path, field, f'must hold {" and ".join(sorted(_NAMES[path.suffix]))}; it holds {got}'
    )
  vectors = arrays['vectors']
  if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in 'fiu':
    raise _error(
      path, field, f'must hold numbers [I, D]; got {vectors.dtype} {list(vectors.shape)}'
    )
  if path.suffix == '.npz':
    rows_I = _rows(path, field, arrays['ids'], len(vectors), item_ids)
  elif len(vectors) == len(item_ids):
    rows_I = np.arange(len(item_ids))
  else:
    raise _error(
      path,
      field,
      f'must hold a row for each of the {len(item_ids)} lines of items.jsonl; it has {len(vectors)}. '
      'A .npz with `ids` and `vectors` may hold more, in any order',
    )
  vectors_ID = vectors[rows_I].astype(np.float64)
  bad = np.flatnonzero(~np.isfinite(vectors_ID).all(axis=1))
  if len(bad):
    named = ', '.join(repr(item_ids[i]) for i in bad[:5])
    raise _error(
      path, field, f'must hold finite numbers; those of {len(bad)} items are not, such as {named}'
    )
  lengths_I = np.linalg.norm(vectors_ID, axis=1)
  return (vectors_ID / np.where(lengths_I > 0, lengths_I, 1)[:, None]).astype(np.float32)


def _rows(
  path: epath.Path, field: str, ids: np.ndarray, num_rows: int, item_ids: Sequence[str]
) -> np.ndarray:
  """The row of each item, int64 `[I]`."""
  if ids.shape != (num_rows,) or ids.dtype.kind not in 'Uiu':
    raise _error(
      path,
      field,
      f'must hold as `ids` texts [{num_rows}], one a row; got {ids.dtype} {list(ids.shape)}',
    )
  rows = {str(item): row for row, item in enumerate(ids.tolist())}
  if len(rows) != len(ids):
    raise _error(
      path, field, f'must hold each id once; {len(ids) - len(rows)} of its ids are repeats'
    )
  missing = [item for item in item_ids if item not in rows]
  if missing:
    named = ', '.join(map(repr, missing[:5]))
    raise _error(
      path,
      field,
      f'must hold every item; {len(missing)} of {len(item_ids)} are missing, such as {named}',
    )
  return np.array([rows[item] for item in item_ids], np.int64)


def _error(path: epath.Path, field: str, must: str) -> ValueError:
  return ValueError(f'{path} {must}. Set --config.{field}')
