"""Reads the checkpoints of a run, independently of `recjax.workdir`."""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp


def scores(workdir: pathlib.Path) -> dict[int, float | None]:
  """Returns the scores of the kept steps, from the first line of the index."""
  index = workdir / 'checkpoints' / 'index.json'
  return dict(json.loads(index.read_text().splitlines()[0])) if index.exists() else {}


def steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the kept checkpoints."""
  return sorted(scores(workdir))


def params(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the parameters of the newest checkpoint, by path."""
  # One device, because this process may not have the mesh of the save.
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  args = ocp.args.Composite(params=ocp.args.StandardRestore(fallback_sharding=sharding))
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    folder = workdir / 'checkpoints' / str(max(steps(workdir)))
    tree = checkpointer.restore(folder, args=args).params
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_params(check, a: pathlib.Path, b: pathlib.Path) -> None:
  """Compares the newest parameters of two runs with a function of numpy.testing."""
  a, b = params(a), params(b)
  assert a.keys() == b.keys()
  for name in a:
    check(a[name], b[name], err_msg=name)
