"""Reads item vectors from a file: a `.npy` in the order of the catalogue, or a `.npz` with raw ids."""

from collections.abc import Sequence
import zipfile

from etils import epath
import numpy as np

from recjax.runtime.files import is_local

_NAMES = {'.npy': {'vectors'}, '.npz': {'ids', 'vectors'}}
_BLOCK = 1 << 16  # rows that are converted at a time


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
    arrays = _arrays(path)
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
  vectors_ID, bad = np.empty((len(rows_I), vectors.shape[1]), np.float32), []
  for start in range(0, len(rows_I), _BLOCK):
    block = slice(start, start + _BLOCK)
    values_BD = vectors[rows_I[block]].astype(np.float64)
    is_bad_B = ~np.isfinite(values_BD).all(axis=1)
    bad += (start + np.flatnonzero(is_bad_B)).tolist()
    values_BD[is_bad_B] = 0
    lengths_B = np.linalg.norm(values_BD, axis=1)
    vectors_ID[block] = values_BD / np.where(lengths_B > 0, lengths_B, 1)[:, None]
  if bad:
    named = ', '.join(repr(item_ids[i]) for i in bad[:5])
    raise _error(
      path, field, f'must hold finite numbers; those of {len(bad)} items are not, such as {named}'
    )
  return vectors_ID


def _arrays(path: epath.Path) -> dict[str, np.ndarray]:
  """The arrays of the file; one of a .npy file is mapped, so that the system may drop its pages."""
  if path.suffix == '.npy' and is_local(path):
    loaded = np.load(path, mmap_mode='r')
    if isinstance(loaded, np.ndarray):
      return {'vectors': loaded}
  with path.open('rb') as f:
    loaded = np.load(f)
    return {'vectors': loaded} if isinstance(loaded, np.ndarray) else dict(loaded)


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
