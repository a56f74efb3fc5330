import numpy as np
import pytest

from data_prep.relations import clusters, semantic_neighbours


def _clouds(items=400, width=8, seed=0):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(20, width))
  vectors = centres[rng.integers(0, 20, items)] + 0.2 * rng.normal(size=(items, width))
  return vectors.astype(np.float32)


def test_all_clusters_give_the_exact_neighbours_and_every_row_once(monkeypatch):
  monkeypatch.setattr(clusters, '_A_CLUSTER', 20)
  vectors = _clouds()
  lengths = np.linalg.norm(vectors, axis=1)
  found = {}
  for rows, near in clusters.search(vectors, lengths, 7):
    found.update(zip(rows.tolist(), near.tolist(), strict=True))
  assert sorted(found) == list(range(400))
  cosine = (vectors / lengths[:, None]) @ (vectors / lengths[:, None]).T
  for row, near in found.items():
    assert set(near) == set(np.argsort(-cosine[row])[:7].tolist())


@pytest.mark.parametrize('probes', [1, 4, 64])
def test_a_search_of_more_than_an_hour_is_approximate_and_its_recall_is_measured(
  monkeypatch, probes
):
  vectors = _clouds()
  vectors[30:50] = vectors[30]
  vectors[7] = 0
  exact, facts = semantic_neighbours.semantic(vectors, 5, unused := {}), {}
  assert not unused
  monkeypatch.setattr(semantic_neighbours, '_SECONDS', 0)
  monkeypatch.setattr(clusters, '_A_CLUSTER', 20)
  monkeypatch.setattr(clusters, '_PROBES', probes)
  got = semantic_neighbours.semantic(vectors, 5, facts)
  assert got.items.lengths.tolist() == exact.items.lengths.tolist()
  hits = sum(len(set(got.items[i]) & set(exact.items[i])) for i in range(400))
  share = hits / len(exact.items.values)
  assert share > (0.6, 0.9, 0.999)[(1, 4, 64).index(probes)]
  assert facts['semantic_recall'] == pytest.approx(share, abs=0.05)
  again = semantic_neighbours.semantic(vectors, 5)
  np.testing.assert_array_equal(got.items.values, again.items.values)
  if probes == 64:
    np.testing.assert_array_equal(got.items.values, exact.items.values)
