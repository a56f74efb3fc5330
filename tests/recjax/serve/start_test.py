"""What a service refuses before it listens."""

import dataclasses

import jax
import pytest

from recjax.schema.run import Mesh
from recjax.serve import start
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.serving import Serving


def test_prompts_that_cannot_be_kept_are_refused_at_once(rated, tmp_path):
  config, dataset = rated
  t5 = dataclasses.replace(config, model=dataclasses.replace(config.model, family='t5'))
  one = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  two = mesh_lib.make_mesh(Mesh(data=2), jax.devices()[:2])
  for wrong, mesh, limit, message in (
    (t5, one, 10**6, r'^--keep_prompts needs a model whose prompts can be kept; .*t5'),
    (config, two, 10**6, r'^--keep_prompts needs .*; prompts are kept on one device; the mesh has 2'),
    (config, one, 2**50, r'^--keep_prompts must be less than the memory of the device, [\d,]+ bytes'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
      start.serve(wrong, tmp_path, dataset, mesh, Serving(port=0, keep_prompts=limit))
    assert '\n' not in str(caught.value)
