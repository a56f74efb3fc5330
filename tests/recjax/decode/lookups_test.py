"""The lookups of a run: each item once, and their scores by name."""

import dataclasses

import numpy as np
import pytest

from recjax.decode.candidates import Candidates
from recjax.decode.lookups import Lookups
from recjax.schema import blend


def settings(world, memory=5, text=5, **changes):
  return dataclasses.replace(
    world[0].eval,
    memory=blend.Memory(counts='transitions', candidates=memory),
    text=blend.Text(vectors='encoder', candidates=text),
    **changes,
  )


def test_an_item_of_two_lookups_is_returned_once(tiny_world):
  dataset = tiny_world[1]
  both = Lookups(settings(tiny_world), dataset)
  alone = [Lookups(settings(tiny_world, **each), dataset) for each in ({'text': 0}, {'memory': 0})]
  histories, _ = dataset.histories_and_targets('test')
  histories = [np.asarray(histories[u]) for u in range(40)]
  best = both.best(both.read(histories), histories)
  lists = [each.best(each.read(histories), histories) for each in alone]
  assert best.shape == (40, both.candidates) == (40, 10)
  repeats = 0
  for u in range(40):
    found = best[u][best[u] >= 0].tolist()
    expected = [*lists[0][u].tolist(), *lists[1][u].tolist()]
    assert found == list(dict.fromkeys(item for item in expected if item >= 0))
    repeats += len(expected) - len(set(expected))
  assert repeats > 10


def test_scores_have_the_names_of_the_lookups_and_none_are_read_without_settings(tiny_world):
  config, dataset = tiny_world
  made = Lookups(settings(tiny_world), dataset)
  history = [np.array([1, 2, 3])]
  items = np.array([[4, 5, -1]], np.int32)
  found = made.scored(made.read(history), Candidates(items, np.zeros((1, 3), np.float32)))
  assert found.head_BM is None and found.memory_BM.shape == found.text_BM.shape == (1, 3)
  assert np.isneginf([found.memory_BM[0, 2], found.text_BM[0, 2]]).all()
  none = Lookups(config.eval, dataset)
  assert none.read(history) == {} and none.candidates == 0


def test_missing_text_vectors_are_named(tiny_world, monkeypatch):
  dataset = tiny_world[1]
  monkeypatch.setattr('recjax.data.dataset._TEXT_VECTORS', 'absent.npy')
  with pytest.raises(
    ValueError, match=r'eval.text.vectors needs text vectors, but .* does not exist'
  ):
    Lookups(settings(tiny_world), dataset)
