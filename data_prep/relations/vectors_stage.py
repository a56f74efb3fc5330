"""The `cooccurrence_vectors` stage: item vectors from the training part of the log, or those of a trained model."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from data_prep import files, refresh
from data_prep import stage as stage_lib
from data_prep.encoders import vectors_file
from data_prep.relations import cooccurrence
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.schema.sids import Sids

FIELD = 'sids.item_vectors'


def check_ready(sids: Sids, root: epath.Path) -> None:
  """Checks the file of item vectors before the first stage runs.

  Raises:
    ValueError: it is no file .npz, or does not exist although no vectors of `root` were made from one.
  """
  path = sids.item_vectors and epath.Path(sids.item_vectors)
  if path is None or (path.suffix == '.npz' and path.exists()):
    return
  manifests = stage_lib.variants(root, 'cooccurrence_vectors').values()
  is_known = any('item_vectors.npz' in manifest['inputs'] for manifest in manifests)
  if path.suffix != '.npz' or not is_known:
    raise ValueError(
      f'{FIELD} must be a file .npz of `ids` and `vectors`, which --mode=export --format=vectors writes; got '
      f'{path}. Set --config.{FIELD}'
    )


def stage(sids: Sids, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage that reads the train arrays, and writes embeddings.npy and the basis for later new items."""
  width, window = sids.cooccurrence_width, sids.cooccurrence_window
  # The input is the number of items, not items.jsonl: these vectors do not depend on texts.
  num_items = stage_lib.read_manifest(prepared / 'interactions')['summary']['items']
  inputs = stage_lib.outputs(prepared, files.TRAIN_ITEMS, files.TRAIN_OFFSETS)
  params = {'items': num_items, 'width': width, 'window': window, 'seed': sids.seed}
  trained = None if sids.item_vectors is None else epath.Path(sids.item_vectors)
  if trained is not None:
    inputs |= stage_lib.outputs(prepared, files.ITEMS) | {'item_vectors.npz': trained}
    params = {'items': num_items, 'source': 'item_vectors'}
  if sids.extend is not None:
    inputs |= stage_lib.outputs(prepared, files.ITEMS) | refresh.inputs(
      sids, files.ITEMS, files.COOCCURRENCE_VECTORS, files.COOCCURRENCE_BASIS
    )
    params = refresh.params(sids, 'cooccurrence_vectors', params)

  def run(out: epath.Path) -> dict[str, Any]:
    train = files.train_sequences(prepared)
    if sids.extend is None and trained is not None:
      vectors_ID = vectors_file.read(trained, refresh.item_ids(prepared), FIELD)
      # The basis of new items: the sum of the vectors of the items that they co-occur with.
      basis_ID = vectors_ID
    elif sids.extend is None:
      vectors_ID, basis_ID = cooccurrence.vectors(train, num_items, width, window, sids.seed)
    else:
      vectors_ID, basis_ID = _extend(sids, refresh.item_ids(prepared), train)
    files.save(out / files.BASIS, basis_ID)
    return files.save_vectors(vectors_ID, out)

  return stage_lib.Stage('cooccurrence_vectors', run, inputs, params, version=2)


def _extend(sids: Sids, today: Sequence[str], train: Sequences) -> tuple[np.ndarray, np.ndarray]:
  """The vectors and the basis of today's items in the earlier space, both `[I, D]`.

  Old items keep their rows. New items are folded in by their co-occurrence with old items; their rows of the
  basis are zero.
  """
  rows_I, folder = refresh.item_rows(sids, today), refresh.earlier(sids)
  vectors_ID = refresh.carried(rows_I, files.load(folder / files.COOCCURRENCE_VECTORS))
  basis_ID = refresh.carried(rows_I, files.load(folder / files.COOCCURRENCE_BASIS))
  new = np.flatnonzero(rows_I < 0)
  vectors_ID[new] = cooccurrence.fold_in(train, new, sids.cooccurrence_window, basis_ID)
  return vectors_ID, basis_ID
