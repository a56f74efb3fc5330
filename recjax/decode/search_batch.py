"""Runs the jitted search of a ranker for one batch of histories."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from recjax.decode.candidates import Candidates
from recjax.decode.loaded import Loaded
from recjax.decode.masks import Mask
from recjax.decode.prompt_store import KEPT, PromptStore
from recjax.sharding import mesh as mesh_lib


class Rows(NamedTuple):
  """The rows of a batch; the search has room for more.

  Attributes:
    prompts: int32 tokens of each row.
    histories: item indices of each row.
    excluded: item indices that are excluded for each row.
    masks: the sub-catalogue of each row; None in it: all items. None: no row has one, and the search is one without.
  """

  prompts: Sequence[np.ndarray]
  histories: Sequence[np.ndarray]
  excluded: Sequence[np.ndarray]
  masks: Sequence[Mask | None] | None


def search_batch(
  search: Callable,
  mesh: jax.sharding.Mesh,
  kept: PromptStore | None,
  params,
  loaded: Loaded,
  rows: Rows,
  shape: tuple[int, int, int],
) -> Candidates:
  """Returns the candidates of at most B rows.

  Args:
    search: of `recjax.decode.ranker.make_search`, jitted.
    mesh: the devices.
    kept: the prompts that are kept. None: none are.
    params: parameters on the mesh.
    loaded: the catalogue.
    rows: the rows.
    shape: (B, S, E): rows of the batch, tokens of a prompt, excluded items of a row.
  """
  B, S, E = shape
  count = len(rows.prompts)
  tokens_BS = np.zeros((B, S), np.int32)
  lengths_B = np.ones(B, np.int32)  # padding rows have length one
  excluded_BE = np.full((B, E), -1, np.int32)
  for b, (prompt, items) in enumerate(zip(rows.prompts, rows.excluded, strict=True)):
    tokens_BS[b, : len(prompt)] = prompt
    lengths_B[b] = len(prompt)
    excluded_BE[b, : len(items)] = items
  batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
  lookups = loaded.lookups
  known_by = {} if lookups is None else lookups.read(rows.histories)
  if known_by and lookups.candidates:
    given_BN = np.full((B, lookups.candidates), -1, np.int32)
    given_BN[:count] = lookups.best(known_by, rows.excluded, rows.masks)
    batch['given'] = given_BN
  if kept is None or count > kept.slots:
    found = _started(search, mesh, params, loaded, batch, rows.masks)
  else:
    with kept.lock:
      batch |= kept.continued(rows.prompts, B, params, loaded.trie, loaded.items)
      found = _started(search, mesh, params, loaded, batch, rows.masks)
  found = jax.tree.map(lambda x: x[:count], jax.device_get(found))
  return lookups.scored(known_by, found) if known_by else found


def _started(search, mesh, params, loaded: Loaded, batch, masks) -> Candidates:
  """Starts the search; with masks every row has a slot."""
  if masks is None:
    return _call(search, mesh, params, loaded, batch)
  with loaded.slots.lock:
    slot_B = np.zeros(len(batch['lengths']), np.int32)
    slot_B[: len(masks)] = loaded.slots.slots(masks)
    return _call(search, mesh, params, loaded, batch | {'slot': slot_B})


def _call(search, mesh, params, loaded: Loaded, batch) -> Candidates:
  kept = {name: x for name, x in batch.items() if name == KEPT}  # on the device
  rows = {name: x for name, x in batch.items() if name not in kept}
  batch = mesh_lib.global_rows(rows, mesh) | kept
  excluded, given, slot = (batch.pop(name, None) for name in ('excluded', 'given', 'slot'))
  masks = None if slot is None else loaded.slots.rows(slot)
  return search(params, loaded.trie, batch, excluded, given, masks, loaded.items)
