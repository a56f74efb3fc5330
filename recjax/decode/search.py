"""The search of a ranker: one program over a batch of rows, each with its own history, exclusions and sub-catalogue."""

from typing import Any, NamedTuple

import jax
import numpy as np

from recjax import models
from recjax.decode import precision, prompt_store
from recjax.decode.candidates import Candidates, search_candidates
from recjax.decode.loaded import Loaded, merged
from recjax.decode.masks import Mask
from recjax.decode.prompt_store import PromptStore
from recjax.decode.widths import Beams
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace


def make_search(model: Model, space: TokenSpace, beams: Beams, dtype: str = precision.FLOAT32):
  """Returns the pure search: (params, trie, prompts, excluded_BE, given_BN, masks, items) -> candidates."""
  graph = models.graph(model, space)

  def search(params, trie, prompts, excluded_BE, given_BN=None, masks=None, items=None):
    params, prompts = precision.stored(params, dtype), prompt_store.with_past(prompts)
    bound = merged(graph, model, space, params, trie, items)
    choices = (beams, model.sid_softmax, model.item_head, given_BN, masks)
    return search_candidates(bound, trie, prompts, excluded_BE, *choices)

  return search


class Rows(NamedTuple):
  """Rows of a batch.

  Attributes:
    prompts: int32 tokens of each.
    histories: item indices of each, for what is looked up.
    excluded: items of each that are not returned.
    masks: the sub-catalogue of each, None for all items. None: no row has one, and the program reads no masks.
  """

  prompts: list[np.ndarray]
  histories: list[np.ndarray]
  excluded: list[np.ndarray]
  masks: list[Mask | None] | None


def search_rows(
  search: Any,
  params: Any,
  loaded: Loaded,
  rows: Rows,
  shape: tuple[int, int, int],
  kept: PromptStore | None = None,
) -> Candidates:
  """Returns the candidates of rows, numpy arrays.

  Args:
    search: the compiled search.
    params: parameters on the mesh.
    loaded: the catalogue.
    rows: the rows.
    shape: (B, S, E), rows of the batch, tokens of a prompt and excluded items for which it has room.
    kept: the prompts that are kept between calls. None: none are.
  """
  B, S, E = shape
  tokens_BS = np.zeros((B, S), np.int32)
  lengths_B = np.ones(B, np.int32)  # padding rows have length one
  excluded_BE = np.full((B, E), -1, np.int32)
  for b, (prompt, items) in enumerate(zip(rows.prompts, rows.excluded, strict=True)):
    tokens_BS[b, : len(prompt)] = prompt
    lengths_B[b] = len(prompt)
    excluded_BE[b, : len(items)] = items
  batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
  lookups, count = loaded.lookups, len(rows.prompts)
  known = {} if lookups is None else lookups.read(rows.histories)
  if known and lookups.candidates:
    batch['given'] = np.full((B, lookups.candidates), -1, np.int32)
    batch['given'][:count] = lookups.best(known, rows.excluded, rows.masks)
  if kept is None or count > kept.slots:
    found = _started(search, params, loaded, batch, rows.masks)
  else:
    with kept.lock:
      batch |= kept.continued(rows.prompts, B, params, loaded.trie, loaded.items)
      found = _started(search, params, loaded, batch, rows.masks)
  found = jax.device_get(found)
  found = jax.tree.map(lambda x: x[:count], found)
  return lookups.scored(known, found) if known else found


def _started(
  search: Any,
  params: Any,
  loaded: Loaded,
  batch: dict[str, np.ndarray],
  masks: list[Mask | None] | None,
) -> Candidates:
  """Starts the search; with masks every row has a slot."""
  if masks is None:
    return _call(search, params, loaded, batch)
  with loaded.slots.lock:
    slot_B = np.zeros(len(batch['lengths']), np.int32)
    slot_B[: len(masks)] = loaded.slots.slots(masks)
    return _call(search, params, loaded, batch | {'slot': slot_B})


def _call(search: Any, params: Any, loaded: Loaded, batch: dict[str, np.ndarray]) -> Candidates:
  kept = {name: x for name, x in batch.items() if name == prompt_store.KEPT}
  batch = {name: x for name, x in batch.items() if name not in kept}
  batch = mesh_lib.global_rows(batch, loaded.mesh) | kept
  excluded, given, slot = (batch.pop(name, None) for name in ('excluded', 'given', 'slot'))
  masks = None if slot is None else loaded.slots.rows(slot)
  return search(params, loaded.trie, batch, excluded, given, masks, loaded.items)
