"""Item vectors of a model, written to a file and quantized to the semantic IDs of another one."""

import dataclasses

from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import prepare
from data_prep.encoders import vectors_file
from data_prep.relations import vectors_stage
from recjax.data.dataset import Dataset
from recjax.schema.sids import Sids
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.export import item_vectors
from tests.recjax.workdir.export import exports


def with_sids(config, **fields):
  return dataclasses.replace(config, sids=dataclasses.replace(config.sids, **fields))


def summed(dataset, params):
  """The sum of the rows of an item's codes, item by item, and the row of its own."""
  table, starts = np.asarray(params['tables']['sid']), dataset.vocabulary.space.level_starts
  rows = [
    sum(table[start + code] for start, code in zip(starts, codes, strict=True))
    for codes in dataset.sids.codes_IL
  ]
  if 'items' in params['tables']:
    rows = np.array(rows) + np.asarray(params['tables']['items'])[: len(rows)]
  return np.array(rows)


def test_vectors_of_a_model_become_semantic_ids(tmp_path):
  config, dataset = exports.rated()
  params = exports.random_params(config, dataset)
  path = tmp_path / 'vectors.npz'
  item_vectors.check_out(str(path))
  item_vectors.write(str(path), config, dataset, mesh_lib.make_mesh(config.mesh), params)
  wanted_ID = summed(dataset, params)
  found = np.load(path)
  np.testing.assert_allclose(found['vectors'], wanted_ID, rtol=1e-6)
  assert found['ids'].tolist() == [item['id'] for item in dataset.items]

  sids = {'quantizer': 'residual_kmeans', 'codes': (4, 4), 'table': None, 'source': 'cooccurrence'}
  made = with_sids(config, item_vectors=str(path), collisions='deduplicate', **sids)
  made = exports.with_(made, 'data', prepared_dir=str(tmp_path / 'data'))
  prepared = prepare.prepare(made)
  unit_ID = wanted_ID / np.linalg.norm(wanted_ID, axis=1, keepdims=True)
  for name in ('embeddings', 'basis'):
    saved_ID = np.load(prepared / 'cooccurrence_vectors' / f'{name}.npy')
    np.testing.assert_allclose(saved_ID, unit_ID, atol=1e-6)
  codes = Dataset.load(made.prepared_folder).sids.codes_IL
  assert codes.shape == (dataset.num_items, 3)
  np.testing.assert_array_equal(codes[0, :2], codes[1, :2])  # items with equal vectors

  path.unlink()  # what was made from it is found again
  assert prepare.find(made) is not None
  other = with_sids(made, item_vectors=str(tmp_path / 'other.npz'), seed=1)
  vectors_stage.check_ready(other.sids, epath.Path(made.prepared_folder))


def test_items_with_rows_of_their_own():
  config, dataset = exports.rated('gemma', collisions='deduplicate')
  config = exports.with_(config, 'model', item_head=True)
  params = exports.random_params(config, dataset)
  rows = np.random.default_rng(1).normal(size=params['tables']['items'].shape)
  params['tables']['items'] = jnp.asarray(rows, jnp.float32)
  found_ID = item_vectors.vectors(config, dataset, mesh_lib.make_mesh(config.mesh), params)
  np.testing.assert_allclose(found_ID, summed(dataset, params), rtol=1e-5, atol=1e-6)


def test_wrong_files_are_refused(tmp_path):
  with pytest.raises(
    ValueError, match=r'--out must be a file .npz for --format=vectors; got .*/out'
  ):
    item_vectors.check_out(str(tmp_path / 'out'))
  with pytest.raises(IsADirectoryError):
    item_vectors.check_out(str(tmp_path))
  (tmp_path / 'v.npy').write_bytes(b'')
  for name in ('v.npy', 'none.npz'):
    sids = Sids(item_vectors=str(tmp_path / name))
    with pytest.raises(ValueError, match=rf'must be a file .npz of .*; got .*{name}. Set --config'):
      vectors_stage.check_ready(sids, epath.Path(tmp_path / 'data'))
  np.savez(tmp_path / 'v.npz', ids=['a'], vectors=np.ones((1, 2)))
  with pytest.raises(
    ValueError, match=r"1 of 2 are missing, such as 'b'. Set --config.sids.item_v"
  ):
    vectors_file.read(epath.Path(tmp_path / 'v.npz'), ['a', 'b'], vectors_stage.FIELD)
  for fields in ({'source': 'text'}, {'quantizer': 'item', 'codes': ()}):
    with pytest.raises(ValueError, match='item_vectors has an effect only with'):
      Sids(item_vectors='v.npz', **fields)
