"""The `relations` stage: lists of items that occur together in the training log, or have similar texts.

`relations/` holds the lists that the config needs as flat arrays, nearest neighbour first:
`collaborative_{items,offsets,counts}.npy` and `semantic_{items,offsets,scores}.npy`.
"""

from collections.abc import Iterator
from typing import Any

from etils import epath
import numpy as np
import scipy.sparse

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.encoders import choice
from data_prep.relations import semantic_neighbours
from recjax import config as config_lib
from recjax.data import neighbours
from recjax.data.cooccurrence import cooccurrence_blocks, stacked
from recjax.data.neighbours import Neighbours
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences, blocks, offsets_of
from recjax.schema.checks import check
from recjax.schema.items import Relations

HOP_DECAY = 0.5  # factor of the weight for each additional hop
_ENTRIES_AT_ONCE = 1 << 24  # bounds the memory of strengths over several hops


def check_top_k(config: config_lib.Config, prepared: Prepared) -> None:
  """Checks that `relations.top_k` is below the number of items; called as soon as that number is known.

  Raises:
    ValueError: the config needs relations, and `relations.top_k` is not below the number of items.
  """
  num_items, top_k = _num_items(prepared), config.relations.top_k
  check(
    top_k < num_items or not (config.needs('collaborative') or config.needs('semantic')),
    f'relations.top_k must be smaller than the number of items, {num_items}',
    top_k,
    'relations.top_k',
  )


def check_texts(config: config_lib.Config, prepared: Prepared) -> None:
  """Checks that some item has a text if semantic relations are made from texts; without any, all items are equal.

  Raises:
    ValueError: no item has one.
  """
  summary = stage_lib.read_manifest(prepared / 'interactions')['summary']
  without, num_items = summary.get('items_without_text', 0), summary['items']
  is_from_texts = config.needs('semantic') and choice.kind(config.sids.encoder) != 'file'
  if is_from_texts and without == num_items:
    raise ValueError(
      f'semantic relations must be made from the texts of items, or from vectors in a file; none of {num_items} items '
      'has a text. Set --config.data.title_column, --config.sids.encoder to a file of vectors, or drop the task '
      'semantic_neighbours and --config.relations.backfill'
    )


def stage(config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage. Collaborative relations come from the train arrays, semantic ones from text embeddings."""
  relations = config.relations
  with_collaborative, with_semantic = config.needs('collaborative'), config.needs('semantic')
  num_items = _num_items(prepared)
  depth = min(relations.backfill_depth or relations.top_k, num_items - 1)
  most = (
    max(depth, relations.top_k) if with_collaborative and relations.backfill else relations.top_k
  )
  inputs, params = {}, {'items': num_items, 'top_k': relations.top_k}
  if with_semantic:
    inputs |= stage_lib.outputs(prepared, files.TEXT_VECTORS)
    params |= {'semantic': True}
  if with_collaborative:
    inputs |= stage_lib.outputs(prepared, files.TRAIN_ITEMS, files.TRAIN_OFFSETS)
    params |= {'collaborative': relations.identifying()}

  def run(out: epath.Path) -> dict[str, Any]:
    summary, near = {}, None
    if with_semantic:
      vectors_ID = files.mapped(prepared / files.TEXT_VECTORS)
      near = semantic_neighbours.semantic(vectors_ID, most, summary)
      semantic = near.first(relations.top_k)
      _save(semantic, out, 'semantic', 'scores')
      summary |= {'semantic_relations': len(semantic.strengths)}
    if with_collaborative:
      lists = collaborative(files.train_sequences(prepared), num_items, relations)
      summary |= {'collaborative_relations': len(lists.strengths)}
      if relations.backfill:
        lists = back_fill(lists, near.items.cut(depth), relations.top_k)
        summary |= {'backfilled': len(lists.strengths) - summary['collaborative_relations']}
      _save(lists, out, 'collaborative', 'counts')
      summary |= {'items_without_collaborative': int((lists.items.lengths == 0).sum())}
    return summary

  return stage_lib.Stage('relations', run, inputs, params)


def _save(lists: Neighbours, folder: epath.Path, name: str, strengths: str) -> None:
  """Writes `<name>_items.npy`, `<name>_offsets.npy` and `<name>_<strengths>.npy`."""
  files.save(folder / f'{name}_items.npy', lists.items.values.astype(np.int32))
  files.save(folder / f'{name}_offsets.npy', lists.items.offsets.astype(np.int64))
  files.save(folder / f'{name}_{strengths}.npy', lists.strengths.astype(np.float32))


def _num_items(prepared: Prepared) -> int:
  return stage_lib.read_manifest(prepared / 'interactions')['summary']['items']


def collaborative(train: Sequences, num_items: int, relations: Relations) -> Neighbours:
  """Returns for each item the `top_k` related items with the largest strengths, strongest first.

  With one hop the strength is the co-occurrence A (`cooccurrence_counts`) without pairs below
  `min_count`. With h hops it is A + A P/2 + … + A (P/2)^(h - 1), where P is A with rows normalised to sum
  one: a random walk in which each additional step has half the weight. IIRG (arXiv 2606.17276) ranks by the count
  within a window; weights by distance, the minimum and additional hops are our extensions. The time of an
  additional hop is proportional to the sum of squared list lengths: seconds for ten thousand items, too long for
  a million.

  Strengths are compared as float32. Ties go to the item that occurs more often in `train`, then to the lower
  index, as in IIRG's code.

  Args:
    train: item indices of every user's training part.
    num_items: I.
    relations: the fields window, distance_weight, min_count, hops and top_k are read.

  Returns:
    I lists with positive strengths; a list is shorter than top_k if fewer items are related.
  """
  occurrences_I = train.counts(num_items)
  ranks_I = np.empty(num_items, np.int64)
  ranks_I[np.argsort(-occurrences_I, kind='stable')] = np.arange(num_items)
  counts = _kept(train, num_items, relations)
  if relations.hops == 1:
    found = (_lists(block) for block in counts)
  else:
    found = _strengths(stacked(list(counts), num_items), relations.hops)
  return neighbours.concatenate([block.strongest(relations.top_k, ranks_I) for block in found])


def _kept(
  train: Sequences, num_items: int, relations: Relations
) -> Iterator[scipy.sparse.csr_matrix]:
  """Yields the co-occurrence of consecutive items, without pairs below `min_count`."""
  found = cooccurrence_blocks(train, num_items, relations.window, relations.distance_weight)
  for _, counts in found:
    counts.data[counts.data < relations.min_count] = 0
    counts.eliminate_zeros()
    yield counts


def _lists(counts: scipy.sparse.csr_matrix) -> Neighbours:
  """The unordered lists of a block of items."""
  items = Sequences(counts.indices, counts.indptr.astype(np.int64))
  return Neighbours(items, counts.data.astype(np.float32))


def _strengths(counts: scipy.sparse.csr_matrix, hops: int) -> Iterator[Neighbours]:
  """Yields the unordered lists of all items within several hops, one block of items at a time."""
  sums_I = np.asarray(counts.sum(axis=1)).ravel()
  step = scipy.sparse.diags(HOP_DECAY / np.where(sums_I > 0, sums_I, 1)) @ counts
  for rows in blocks(_most_entries(counts, hops), _ENTRIES_AT_ONCE):
    total = walk = counts[rows]
    for _ in range(hops - 1):
      walk = walk @ step
      total = total + walk
    block = _lists(total)
    owners = np.repeat(rows, block.items.lengths)
    yield block.keep(total.indices != owners)  # a walk can return to its start


def _most_entries(counts: scipy.sparse.csr_matrix, hops: int) -> np.ndarray:
  """Upper bounds on the number of items within `hops` of each item, int64 `[I]`."""
  num_items, direct_I = counts.shape[0], np.diff(counts.indptr).astype(np.int64)
  if hops > 2:
    return np.where(direct_I > 0, num_items, 0)
  pairs = scipy.sparse.csr_matrix(
    (np.ones(counts.nnz, np.int64), counts.indices, counts.indptr), counts.shape
  )
  return np.minimum(pairs @ direct_I, num_items)


def back_fill(lists: Neighbours, semantic: Sequences, k: int) -> Neighbours:
  """Fills lists shorter than k from the lists of semantic neighbours, like IIRG's code.

  Items are processed in ascending order and in place. For each semantic neighbour, nearest first, the new
  members of its list are appended until the list has k entries. So the filled lists of earlier items are read,
  and the unfilled lists of later items.

  Args:
    lists: collaborative lists.
    semantic: the semantic neighbours of every item, in order: `relations.backfill_depth` of them. IIRG's code reads
      500.
    k: the length to fill up to.

  Returns:
    The filled lists; appended items have strength 0.
  """
  filled: dict[int, list[int]] = {}
  for i in np.flatnonzero(lists.items.lengths < k).tolist():
    members = lists.items[i].tolist()
    known = {i, *members}
    for s in semantic[i].tolist():
      for j in filled[s] if s in filled else lists.items[s].tolist():
        if len(members) < k and j not in known:
          members.append(j)
          known.add(j)
    filled[i] = members
  lengths = lists.items.lengths.copy()
  lengths[list(filled)] = [len(members) for members in filled.values()]
  offsets = offsets_of(lengths)
  items, strengths = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], np.float32)
  old = lists.items.places + np.repeat(offsets[:-1], lists.items.lengths)
  items[old], strengths[old] = lists.items.values, lists.strengths
  for i, members in filled.items():
    items[offsets[i] : offsets[i + 1]] = members
  return Neighbours(Sequences(items, offsets), strengths)
