"""The `relations` stage: lists of items that occur together in the training log, or have similar texts.

`relations/` holds the lists that the config needs as flat arrays, nearest neighbour first:
`collaborative_{items,offsets,counts}.npy` and `semantic_{items,offsets,scores}.npy`.
"""

from collections.abc import Callable
from typing import Any

from etils import epath
import numpy as np

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.encoders import choice
from data_prep.relations import collaborative as collaborative_lib
from data_prep.relations import semantic_neighbours
from recjax import config as config_lib
from recjax.data.neighbours import Neighbours
from recjax.data.prepared import Prepared
from recjax.schema.checks import check


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


Collaborative = Callable[[epath.Path], Neighbours]


def stage(
  config: config_lib.Config, prepared: Prepared, count: Collaborative | None = None
) -> stage_lib.Stage:
  """Returns the stage. Collaborative relations come from the train arrays, semantic ones from text embeddings.

  Args:
    config: the config.
    prepared: the earlier stages.
    count: returns what `collaborative.collaborative` does, given the folder that the stage writes; None: that.
  """
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
      if count is None:
        train = files.train_sequences(prepared)
        lists = collaborative_lib.collaborative(train, num_items, relations)
      else:
        lists = count(out)
      summary |= {'collaborative_relations': len(lists.strengths)}
      if relations.backfill:
        lists = collaborative_lib.back_fill(lists, near.items.cut(depth), relations.top_k)
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
