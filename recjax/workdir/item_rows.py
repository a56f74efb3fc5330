"""The rows of items of a run: item ids in the order of the rows, so that another catalogue finds its rows.

A model with an item head or with `model.item_rows` has a row for every item, in the order of its catalogue. The code
space does not tell which items these are. A run that starts from such a model, or evaluates it on a later day, takes
the rows by item id: new items begin with zeros, that is with the sum of their code rows, and rows of removed items are dropped.
"""

from collections.abc import Mapping, Sequence
import functools
import json
import logging
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.dataset import Dataset
from recjax.runtime.files import write_whole
from recjax.schema.model import Model
from recjax.sids.token_space import padded
from recjax.workdir.checkpoints import Checkpoints

log = logging.getLogger(__name__)

FILE = 'item_rows.json'  # in the workdir of a training


def has_rows(model: Model | Mapping[str, Any]) -> bool:
  """Returns whether a model section, also one of an earlier version, has rows of items."""
  section = model if isinstance(model, Mapping) else vars(model)
  return bool(section.get('item_rows') or section.get('item_head'))


def write(workdir: epath.Path, model: Model, dataset: Dataset) -> None:
  """Writes the item ids of the rows, if the model has any."""
  if has_rows(model):
    write_whole(workdir / FILE, json.dumps(_ids(dataset)) + '\n')


def restored(
  checkpoints: Checkpoints, step: int, abstract: Any, source: Mapping[str, Any], dataset: Dataset
) -> Any:
  """Reads the parameters of a checkpoint for the catalogue of a data set.

  Args:
    checkpoints: of a run.
    step: of the checkpoint.
    abstract: ShapeDtypeStructs of the parameters of this program, with their shardings.
    source: the model section of the run.
    dataset: the data of this program.

  Returns:
    Parameters as in `abstract`.

  Raises:
    ValueError: the run has rows of items, but not their ids.
  """
  had, has = has_rows(source), 'items' in abstract['tables']
  if not had and not has:
    return checkpoints.restore_params(step, abstract)
  old = _read(checkpoints.folder.parent / FILE) if had else []
  if had and has and old == _ids(dataset):
    return checkpoints.restore_params(step, abstract)
  tables = {name: x for name, x in abstract['tables'].items() if name != 'items'}
  like = abstract['tables']['sid']
  if had:
    shape = (padded(len(old)), like.shape[1])
    tables['items'] = jax.ShapeDtypeStruct(shape, like.dtype, sharding=like.sharding)
  params = checkpoints.restore_params(step, abstract | {'tables': tables})
  rows_VD = params['tables'].pop('items', None)
  if has:
    wanted = abstract['tables']['items']
    place_V = _places(old, _ids(dataset), wanted.shape[0])
    move = functools.partial(_moved, wanted.shape)
    params['tables']['items'] = jax.jit(move, out_shardings=wanted.sharding)(rows_VD, place_V)
  return params


def _moved(shape: tuple[int, int], rows_VD: jax.Array | None, place_V: np.ndarray) -> jax.Array:
  """Returns the rows at `place_V`; zeros where the place is none of the rows."""
  if rows_VD is None:
    return jnp.zeros(shape, jnp.float32)
  return jnp.take(rows_VD, place_V, axis=0, mode='fill', fill_value=0)


def _places(old: Sequence[str], new: Sequence[str], rows: int) -> np.ndarray:
  """Returns the old row of every new one, int32 `[rows]`; a number past the old rows for new items. Logs both counts."""
  at = {item: row for row, item in enumerate(old)}
  nowhere = padded(len(old))
  place_V = np.full(rows, nowhere, np.int32)
  place_V[: len(new)] = [at.get(item, nowhere) for item in new]
  kept = int((place_V < nowhere).sum())
  log.info(
    'rows of items: %d of %d items keep theirs by item id, %d are new and start from their codes, %d rows of items that '
    'are not in the catalogue are dropped',
    *(kept, len(new), len(new) - kept, len(old) - kept),
  )
  return place_V


def _ids(dataset: Dataset) -> list[str]:
  return [item['id'] for item in dataset.items]


def _read(path: epath.Path) -> list[str]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} must hold the item ids of the rows of the model, as its training wrote them; it is missing or damaged. '
      'Set --workdir or --config.checkpoint.init_from to a whole workdir'
    ) from error
