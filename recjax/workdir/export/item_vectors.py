"""Writes the item vectors of a trained model: for semantic IDs (`sids.item_vectors`), or for a search of neighbours."""

import logging
import os
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax import models
from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.decode.loaded import merged
from recjax.runtime import distributed, files
from recjax.sharding import mesh as mesh_lib

log = logging.getLogger(__name__)

SUFFIX = '.npz'


def check_out(out: str) -> None:
  """Checks the file of a command.

  Raises:
    OSError: it cannot be written.
    ValueError: its name does not end with .npz.
  """
  files.check_file(out, '--out')
  if epath.Path(out).suffix != SUFFIX:
    raise ValueError(f'--out must be a file {SUFFIX} for --format=vectors; got {out}. Set --out')


def vectors(config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, params: Any) -> np.ndarray:
  """Returns the vector of every item that the output of a model is compared with.

  It is the sum of the rows of the item's codes and, with `model.item_rows` or `model.item_head`, of its own row.
  With `sids.quantizer=item` (SASRec) it is the item's one row.

  Args:
    config: config of the run.
    dataset: the prepared data.
    mesh: the devices.
    params: parameters of the model.

  Returns:
    float32 `[I, D]`, in item order.
  """
  space = dataset.vocabulary.space
  graph = models.graph(config.model, space)

  def found(params):
    model = merged(graph, config.model, space, params, None, None)
    return model.tables.item_vectors()

  with jax.set_mesh(mesh):
    vectors_VD = jax.jit(found, out_shardings=mesh_lib.replicated(mesh))(params)
  return np.asarray(vectors_VD)[: dataset.num_items]


def write(out: str, config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, params: Any) -> None:
  """Writes the vectors and the raw ids of all items; the file is whole or absent. Every process must call it.

  Args:
    out: a file .npz. It gets `ids`, texts `[I]`, and `vectors`, float32 `[I, D]`.
    config, dataset, mesh, params: as in `vectors`.
  """
  vectors_ID = vectors(config, dataset, mesh, params)
  if distributed.is_host0():
    ids = np.array([item['id'] for item in dataset.items])
    with files.replacing(os.fspath(out), 'wb') as f:
      np.savez(f, ids=ids, vectors=vectors_ID)
    log.info('%d item vectors of width %d -> %s', *vectors_ID.shape, out)
