"""Reads back a checkpoint after it was written, to find a broken file system at the first save."""

from collections.abc import Iterator, Mapping
import math
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import orbax.checkpoint as ocp

_BATCH_BYTES = 1 << 30  # read at a time, over all devices


def abstract(items: Mapping[str, Any]) -> dict[str, Any]:
  """Returns ShapeDtypeStructs of trees of arrays, with their shardings."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(items)
  )


def read_back(folder: epath.Path, items: Mapping[str, Any]) -> None:
  """Checks shape and dtype of every array of a checkpoint, and reads all of `params`.

  The arrays of `params` are restored to their shardings in batches of about 1 GiB and dropped again, so that
  a large model needs no second copy of its parameters. For the optimizer state only the metadata are read:
  computing the checksums has already read its bytes.

  Args:
    folder: folder of the checkpoint.
    items: ShapeDtypeStructs with shardings, by item; `params` holds nested dicts.

  Raises:
    ValueError: an array is missing, or has another shape or dtype.
  """
  handler = ocp.StandardCheckpointHandler()
  for name, tree in items.items():
    found = _shapes(handler.metadata(folder / name).tree)
    for path, expected in _shapes(tree).items():
      if found.get(path) != expected:
        raise ValueError(
          f'{name}/{"/".join(path)} must be an array {expected}; got {found.get(path)}'
        )
  with ocp.PyTreeCheckpointer() as checkpointer:
    for part in _batches(items['params']):
      restore_args = ocp.checkpoint_utils.construct_restore_args(part)
      args = ocp.args.PyTreeRestore(part, restore_args=restore_args)
      jax.block_until_ready(_arrays(checkpointer.restore(folder / 'params', args=args)))


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[tuple[int, ...], str]]:
  return {
    path: (tuple(x.shape), str(x.dtype))
    for path, x in ocp.tree.to_flat_dict(tree).items()
    if hasattr(x, 'shape')
  }


def _batches(params: Any) -> Iterator[Any]:
  """Yields copies of a tree, each with a placeholder for every array outside its batch."""
  arrays = traverse_util.flatten_dict(params)
  batch, size = {}, 0
  for n, (path, x) in enumerate(arrays.items(), start=1):
    batch[path], size = x, size + math.prod(x.shape) * x.dtype.itemsize
    if size >= _BATCH_BYTES or n == len(arrays):
      yield traverse_util.unflatten_dict(dict.fromkeys(arrays, ocp.PLACEHOLDER) | batch)
      batch, size = {}, 0


def _arrays(tree: Any) -> list[jax.Array]:
  return [x for x in jax.tree.leaves(tree) if x is not ocp.PLACEHOLDER]
