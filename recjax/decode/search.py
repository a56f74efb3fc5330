"""The search as a pure function, and its call for one batch of histories with padded shapes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from recjax import models
from recjax.decode import precision, prompt_store
from recjax.decode.batches import PROMPT_MULTIPLE
from recjax.decode.candidates import Candidates, search_candidates
from recjax.decode.loaded import Loaded, merged
from recjax.decode.masks import Mask
from recjax.decode.prompt_store import KEPT, PromptStore
from recjax.decode.widths import Beams
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

# A recommender compiles its searches for this number of excluded items; more become a mask.
EXCLUDED = 256


def round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def power_of_two(n: int, least: int = 1) -> int:
  """Returns the smallest power of two that is neither below `n` nor below `least`, a power of two."""
  return max(least, 1 << (max(n, 1) - 1).bit_length())


def make_search(
  model: Model,
  space: TokenSpace,
  beams: Beams,
  dtype: str = precision.FLOAT32,
  cuts: bool = False,
):
  """Returns the pure search: (params, trie, prompts, excluded_BE, given_BN, masks, items) -> candidates.

  Args:
    model: the model of the run; see `precision.of_search`.
    space: its token space.
    beams: beams, or the beams after each level.
    dtype: type of the weights.
    cuts: whether beams that cannot enter are skipped (`recjax.decode.cut`).
  """
  graph = models.graph(model, space)

  def search(params, trie, prompts, excluded_BE, given_BN=None, masks=None, items=None):
    params = precision.stored(params, dtype, model.lora_alpha)
    prompts = prompt_store.with_past(prompts)
    bound = merged(graph, model, space, params, trie, items)
    choices = (beams, model.sid_softmax, model.item_head, given_BN, masks, cuts)
    return search_candidates(bound, trie, prompts, excluded_BE, *choices)

  return search


def shape_of(
  B: int,
  prompts: Sequence[np.ndarray],
  excluded: Sequence[np.ndarray],
  longest: int,
  buckets: Sequence[int] | None,
) -> tuple[int, int, int]:
  """Returns (B, S, E): rows of a batch, tokens of a prompt, excluded items of a row.

  Args:
    B: rows of the batch.
    prompts: int32 tokens of each row.
    excluded: item indices that are excluded for each row.
    longest: tokens of the longest prompt.
    buckets: the lengths that prompts are padded to, ascending. None: multiples of `PROMPT_MULTIPLE`.
  """
  S, E = max(map(len, prompts)), max(map(len, excluded))
  if buckets is None:
    return B, min(round_up(S, PROMPT_MULTIPLE), longest), power_of_two(E, 16)
  return B, next(bucket for bucket in buckets if bucket >= S), power_of_two(E, EXCLUDED)


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
    search: of `make_search`, jitted.
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
