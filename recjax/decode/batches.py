"""Runs a jitted function over many prompts, in batches of similar lengths on a mesh."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from recjax.runtime import logs, preemption, watchdog
from recjax.sharding import mesh as mesh_lib

PROMPT_MULTIPLE = 32  # prompt lengths are rounded up to a multiple, so that few shapes are compiled


def over_prompts(
  compute: Callable[[dict[str, jax.Array]], Any],
  prompts: Sequence[np.ndarray],
  mesh: jax.sharding.Mesh,
  batch_size: int,
  columns: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
  timeout: float = 0.0,
  progress: str | None = None,
  length: int | None = None,
) -> Any:
  """Returns the results of all prompts in their order.

  Args:
    compute: batch → arrays `[B, …]` that every process holds. A batch has int32 `tokens` `[B, S]`, padded on the
      right, `lengths` `[B]`, and the arrays of `columns`.
    prompts: U ≥ 1 arrays of int32 tokens, none empty.
    mesh: the devices.
    batch_size: rows of a batch; it is rounded up to a multiple of the batch shards of the mesh.
    columns: row numbers int64 `[B]` → further arrays `[B, …]` of a batch.
    timeout: seconds of a batch, with its compilation; 0: no limit.
    progress: label of the progress bar. None: no bar.
    length: tokens for which every batch has room. None: as many as its longest prompt has, rounded up.

  Returns:
    The arrays of `compute` as numpy arrays `[U, …]`.
  """
  shards = mesh_lib.batch_shards(mesh)
  U, B = len(prompts), -(-batch_size // shards) * shards
  order = np.argsort([-len(prompt) for prompt in prompts], kind='stable')
  is_shown = progress is not None and jax.process_index() == 0
  found = []
  bar = logs.progress(total=U, desc=progress or '', unit=' rows', disable=not is_shown, leave=False)
  with bar, jax.set_mesh(mesh):
    for start in range(0, U, B):
      preemption.check()
      rows = order[start : start + B]
      padded = np.concatenate([rows, np.repeat(rows[-1:], B - len(rows))])
      batch = _tokens([prompts[u] for u in padded], length) | (columns(padded) if columns else {})
      with watchdog.expect(f'prompts {start} to {start + B} of {U}', timeout):
        results = jax.device_get(compute(mesh_lib.global_rows(batch, mesh)))
      found.append(jax.tree.map(lambda x, n=rows.size: x[:n], results))
      bar.update(len(rows))
  place = np.argsort(order)
  return jax.tree.map(lambda *parts: np.concatenate(parts)[place], *found)


def _tokens(prompts: Sequence[np.ndarray], length: int | None) -> dict[str, np.ndarray]:
  lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
  S = length or -(-int(lengths_B.max()) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
  tokens_BS = np.zeros((len(prompts), S), np.int32)
  tokens_BS[np.arange(S) < lengths_B[:, None]] = np.concatenate(prompts)
  return {'tokens': tokens_BS, 'lengths': lengths_B}
