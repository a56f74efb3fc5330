"""Weights of the search in fewer bits, and how far its lists are from those in float32."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np

from recjax.models import int8
from recjax.schema.model import Model
from recjax.schema.run import Eval

log = logging.getLogger(__name__)

FLOAT32, BFLOAT16, INT8 = 'float32', 'bfloat16', 'int8'


def of_search(model: Model, settings: Eval, mesh: jax.sharding.Mesh) -> Model:
  """Returns the model section of a search; with weights in fewer bits it computes in bfloat16.

  With int8 it computes in float32 on a CPU, which is faster there.

  Args:
    model: the section of the config.
    settings: the eval section, which has the type of the weights.
    mesh: the devices.
  """
  is_cpu = mesh.devices.flat[0].platform == 'cpu'
  if settings.weights_dtype == FLOAT32 or (settings.weights_dtype == INT8 and is_cpu):
    return model
  return dataclasses.replace(model, compute_dtype=BFLOAT16)


def stored(params: Any, dtype: str, lora_alpha: float) -> Any:
  """Returns parameters for a search: kernels and tables in a type, norms and biases as they are.

  Args:
    params: the parameter tree; it may be stored already.
    dtype: `eval.weights_dtype`.
    lora_alpha: `model.lora_alpha`; weights of int8 hold the adapters.
  """
  if dtype == FLOAT32 or int8.is_stored(params):
    return params
  if dtype == INT8:
    return int8.stored(params, lora_alpha)

  def cast(path, x):
    names = [key.key for key in path]
    return x.astype(dtype) if names[-1] == 'kernel' or names[0] == 'tables' else x

  return jax.tree_util.tree_map_with_path(cast, params)


def overlap(items_UM: np.ndarray, others_UM: np.ndarray, k: int) -> float:
  """Returns the share of the first k items that two rankings have in common, the mean of the users with items.

  Args:
    items_UM, others_UM: int32, best first, -1 after the last.
    k: at most M.
  """
  items_Uk, others_Uk = items_UM[:, :k], others_UM[:, :k]
  is_common_Uk = (items_Uk[:, :, None] == others_Uk[:, None]).any(-1) & (items_Uk >= 0)
  sizes_U = np.maximum((items_Uk >= 0).sum(1), (others_Uk >= 0).sum(1))
  has_items_U = sizes_U > 0
  if not has_items_U.any():
    return 1.0
  return float((is_common_Uk.sum(1)[has_items_U] / sizes_U[has_items_U]).mean())


def measured(exact: Any, context: Any, rows: np.ndarray) -> float:
  """Returns and logs the overlap of the first 10 items of a search with that in float32.

  Args:
    exact: the ranker in float32.
    context: the run (`recjax.metrics.evaluators.base.Context`), with parameters and the ranker of the search.
    rows: validation rows.
  """
  histories, known = context.histories('validation', rows)
  ranked = [
    ranker.rank(context.params, histories, f'overlap with {FLOAT32}', known)[0]
    for ranker in (context.ranker, exact)
  ]
  found = overlap(*ranked, k=10)
  log.info(
    'of the first 10 items %.2f %% are those of float32, for %d validation rows',
    100 * found,
    len(rows),
  )
  return found
