"""The context of an untrained model, for tests of evaluators."""

import dataclasses

from flax import nnx
import jax
import numpy as np

from recjax import models
from recjax.evaluate import make_context
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib

SMALL = {'depth': 1, 'width': 16, 'ff_width': 16, 'heads': 2, 'kv_heads': 2, 'head_width': 8}


def context_of(rated, sizes=(1, 1, 1), **evaluators):
  """The context of an untrained model of the rated world; its search finds every item of the catalogue."""
  config, dataset = rated
  model = dataclasses.replace(config.model, **SMALL)
  settings = dataclasses.replace(config.eval, beams=dataset.num_items, exclude_seen=False)
  settings = dataclasses.replace(settings, batch_size=16)
  evaluators = config.evaluators | evaluators
  config = dataclasses.replace(config, model=model, eval=settings, evaluators=evaluators)
  names = dict(zip(mesh_lib.AXES, sizes, strict=True))
  mesh = mesh_lib.make_mesh(Mesh(**names), jax.devices()[: int(np.prod(sizes))])

  @jax.jit
  def init():
    params = nnx.to_pure_dict(nnx.split(models.build(model, dataset.vocabulary.space, 0))[1])
    return params | {'tables': jax.tree.map(lambda x: x * 4, params['tables'])}

  return make_context(config, dataset, mesh).with_params(init())  # sharper, so that scores differ
