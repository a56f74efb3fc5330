import collections
import math

import numpy as np
import pytest

from recjax.metrics import nearest_titles
from recjax.metrics.nearest_titles import NearestTitles

TITLES = [
  'Argan oil shampoo', 'Argan oil conditioner', 'Hair brush', 'Hair brush, small', 'Shampoo argan oil',
  'x', 'Öl für Haare', 'Lip balm (3 pack)', 'lip BALM', 'Towel',
]  # fmt: skip


def trigrams(text):
  """Counts, in plain Python."""
  words = (f' {word} ' for word in text.lower().split())
  return collections.Counter(word[n : n + 3] for word in words for n in range(len(word) - 2))


def cosines(text):
  counts = [trigrams(title) for title in TITLES]
  frequency = collections.Counter(gram for count in counts for gram in count)
  weight = {g: math.log((1 + len(TITLES)) / (1 + n)) + 1 for g, n in frequency.items()}

  def vector(count):
    scaled = {gram: n * weight[gram] for gram, n in count.items() if gram in weight}
    norm = math.sqrt(sum(value**2 for value in scaled.values())) or 1.0
    return {gram: value / norm for gram, value in scaled.items()}

  one = vector(trigrams(text))
  vectors = [vector(count) for count in counts]
  return [sum(one[gram] * value for gram, value in v.items() if gram in one) for v in vectors]


@pytest.mark.parametrize('block', [1, 25, 1 << 22])
def test_the_nearest_titles_have_the_largest_cosines(monkeypatch, block):
  monkeypatch.setattr(nearest_titles, 'BLOCK', block)
  texts = [*TITLES, 'argan', 'shampo argn oil', 'brushes', '', '  ', 'qqqq', 'hair', 'lip balm']
  nearest = NearestTitles(TITLES)
  for k in (1, 3, 50):
    found, values = nearest.find(texts, k)
    assert found.shape == values.shape == (len(texts), min(k, 10))
    assert (found.dtype, values.dtype) == (np.int32, np.float32)
    for row, text in enumerate(texts):
      exact = [round(value, 9) for value in cosines(text)]
      order = sorted(range(10), key=lambda n: (-exact[n], n))
      expected = [n for n in order if exact[n] > 0][:k]
      assert found[row, : len(expected)].tolist() == expected
      assert (found[row, len(expected) :] == -1).all()
      assert values[row, : len(expected)] == pytest.approx([exact[n] for n in expected])


def test_of_equally_near_titles_the_first_is_returned():
  # Words in another order have the same trigrams.
  found, values = NearestTitles(TITLES).find(['oil Argan Shampoo'], 3)
  assert found[0].tolist()[:2] == [0, 4]
  assert values[0, 0] == values[0, 1] == pytest.approx(1.0)
