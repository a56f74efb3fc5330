"""The formats of --mode=export: a folder of `transformers`, a bundle with the whole search, or the item vectors."""

from typing import Any

import jax

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.workdir import weights
from recjax.workdir.export import bundle, folder, item_vectors
from recjax.workdir.request import Request


def check(request: Request, config: Config, dataset: Dataset) -> None:
  """Checks an export before parameters are restored; see `folder.check` and `bundle.check`."""
  if request.format == 'vectors':
    return  # `Request.check` has checked the file
  (bundle if request.format == 'bundle' else folder).check(request.out, config, dataset)


def write(
  request: Request,
  config: Config,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  params: Any,
  step: int,
) -> None:
  """Writes the folder or the file of a command; it is whole or absent. Every process must call it.

  Args:
    request: the command.
    config: config of the run.
    dataset: the prepared data.
    mesh: the devices.
    params: parameters of the model.
    step: of their checkpoint.

  Raises:
    ValueError: a bundle needs weights of scores that no evaluation has chosen; see `weights.recorded`.
  """
  if request.format == 'vectors':
    item_vectors.write(request.out, config, dataset, mesh, params)
    return
  if request.format != 'bundle':
    folder.write(request.out, config, dataset, params)
    return
  chosen = weights.recorded(config, request.workdir, step)
  bundle.write(request.out, config, dataset, mesh, params, chosen, request.beams)
