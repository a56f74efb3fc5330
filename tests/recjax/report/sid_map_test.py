"""The map of the semantic IDs: principal components, a fixed rule for large catalogues."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from recjax.report import sid_map


def world(codes_IL, folder, vectors='text', quantizer='residual_kmeans'):
  """A config and a data set with these codes."""
  codes_IL = np.asarray(codes_IL, np.int32)
  items = [{'id': str(n), 'text': f'item {n} ' + 'x' * 200} for n in range(len(codes_IL))]
  table = SimpleNamespace(codes_IL=codes_IL)
  config = SimpleNamespace(sids=SimpleNamespace(source=vectors, quantizer=quantizer))
  return config, SimpleNamespace(sids=table, num_items=len(items), items=items, folder=folder)


def test_components_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  rows_ND = rng.normal(size=(300, 40)) * np.linspace(5, 0.1, 40) + 7
  expected = PCA(2, svd_solver='full').fit_transform(rows_ND)
  found = sid_map.components(rows_ND)
  assert np.abs(found).max(axis=0) == pytest.approx([1, 1])
  for n in range(2):
    assert abs(np.corrcoef(found[:, n], expected[:, n])[0, 1]) > 0.9999


def test_sparse_codes_give_the_components_of_dense_ones():
  codes = np.random.default_rng(0).integers(0, 5, (200, 3)).astype(np.int32)
  rows = sid_map._codes(codes)
  assert rows.toarray().sum(axis=1).tolist() == [3] * 200
  np.testing.assert_allclose(
    sid_map.components(rows), sid_map.components(rows.toarray()), atol=1e-3
  )


def test_a_large_catalogue_is_drawn_by_a_fixed_rule(tmp_path):
  codes = np.random.default_rng(0).integers(0, 7, (9001, 2))
  found = sid_map.sid_map(*world(codes, tmp_path))
  assert found['of'] == 'codes' and found['items'] == 9001
  assert found['rule'].startswith('4,000 items at equal distances') and len(found['points']) == 4000
  assert found == sid_map.sid_map(*world(codes, tmp_path))
  assert found['points'][-1]['sid'] == codes[-1].tolist()
  assert (
    found['points'][-1]['title'].startswith('item 9000')
    and len(found['points'][0]['title']) == sid_map.TITLE
  )


def test_the_vectors_that_were_quantized_are_projected(tmp_path):
  codes = [[n % 4, n] for n in range(40)]
  vectors = {
    name: np.random.default_rng(n).normal(size=(40, 8))
    for n, name in enumerate(('text_embeddings', 'cooccurrence_vectors'))
  }
  for name, values in vectors.items():
    (tmp_path / name).mkdir()
    np.save(tmp_path / name / 'embeddings.npy', values.astype(np.float32))
  found = sid_map.sid_map(*world(codes, tmp_path))
  assert found['of'] == 'item vectors' and found['rule'] == 'every item'
  expected = PCA(2).fit_transform(vectors['text_embeddings'])
  xs = [point['x'] for point in found['points']]
  assert abs(np.corrcoef(xs, expected[:, 0])[0, 1]) > 0.999
  both = sid_map.sid_map(*world(codes, tmp_path, 'both'))
  assert both['of'] == 'item vectors' and both['points'] != found['points']
  imported = sid_map.sid_map(*world(codes, tmp_path, quantizer='import'))
  assert imported['of'] == 'codes'
  np.save(tmp_path / 'text_embeddings/embeddings.npy', np.zeros((39, 8)))  # of another catalogue
  assert sid_map.sid_map(*world(codes, tmp_path))['of'] == 'codes'
  np.save(tmp_path / 'text_embeddings/embeddings.npy', np.zeros((40, 8)))
  assert sid_map.sid_map(*world(codes, tmp_path)) is None  # no variance


@pytest.mark.parametrize(
  'codes', [[[n] for n in range(30)], [[0, n] for n in range(30)], [[0], [1]]]
)
def test_first_codes_that_group_nothing_give_no_map(codes, tmp_path):
  assert sid_map.sid_map(*world(codes, tmp_path)) is None


def test_the_map_of_prepared_data_uses_its_vectors(tiny_world):
  config, dataset = tiny_world
  found = sid_map.sid_map(config, dataset)
  assert found['of'] == 'item vectors' and len(found['points']) == dataset.num_items
  imported = dataclasses.replace(config, sids=dataclasses.replace(config.sids, source='text'))
  assert sid_map.sid_map(imported, dataset)['items'] == dataset.num_items
