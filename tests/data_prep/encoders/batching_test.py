"""Batches: every text once, similar lengths, few shapes; and the optimal widths."""

import itertools

import numpy as np
import pytest

from data_prep.encoders import batching
from recjax.data.sequences import Sequences


@pytest.mark.parametrize('shards', [1, 8])
@pytest.mark.parametrize('num_texts', [1, 7, 500])
def test_every_non_empty_text_is_in_one_batch_of_sufficient_width(shards, num_texts):
  rng = np.random.default_rng(num_texts)
  lengths = rng.integers(0, 60, num_texts) + (np.arange(num_texts) == 0)
  batches = batching.plan(lengths, 256 * shards, shards)
  rows = np.concatenate([batch.rows for batch in batches])
  assert sorted(rows) == np.flatnonzero(lengths).tolist()
  assert (np.diff(lengths[rows]) <= 0).all()  # the longest first
  for batch in batches:
    assert batch.size % shards == 0 and 0 < len(batch.rows) <= batch.size
    assert lengths[batch.rows].max() <= batch.width
    assert batch.size * batch.width <= max(256 * shards, shards * batch.width)
  assert all(len(batch.rows) == batch.size for batch in batches[:-1])
  sizes = {}
  for batch in batches:
    assert sizes.setdefault(batch.width, batch.size) == batch.size


def test_empty_texts_give_no_batches():
  assert batching.plan(np.zeros(3, np.int64), 256, 1) == []
  assert batching.plan(np.zeros(0, np.int64), 256, 1) == []


@pytest.mark.parametrize('price', [0, 30, 1000])
def test_widths_have_the_minimum_cost_of_all_choices(price):
  rng = np.random.default_rng(price)
  lengths = np.concatenate([rng.integers(1, 30, 40), [27]])

  def cost(widths):
    padded = np.array(widths)[np.searchsorted(widths, lengths)]
    return padded.sum() + price * len(widths)

  greatest = int(lengths.max())
  candidates = sorted({min(-(-n // 4) * 4, greatest) for n in lengths.tolist()})
  subsets = itertools.chain.from_iterable(
    itertools.combinations(candidates[:-1], k) for k in range(len(candidates))
  )
  best = min(cost((*subset, greatest)) for subset in subsets)
  got = batching.widths(lengths, price)
  assert got[-1] == greatest
  assert cost(got) == best


def test_the_number_of_widths_is_limited():
  lengths = np.arange(1, 2000)
  got = batching.widths(lengths, 0)
  assert len(got) == batching._MAX_SHAPES
  assert (np.diff(got) > 0).all() and got[-1] == 1999


def test_token_ids_are_flat_in_the_order_of_the_texts(monkeypatch):
  monkeypatch.setattr(batching, '_CHUNK', 3)
  texts = [' '.join(map(str, range(n))) for n in (2, 0, 5, 1, 1, 3, 4)]
  got = batching.tokenized(texts, lambda chunk: [[int(w) for w in t.split()] for t in chunk])
  assert isinstance(got, Sequences) and got.values.dtype == np.int32
  assert [got[i].tolist() for i in range(7)] == [list(range(n)) for n in (2, 0, 5, 1, 1, 3, 4)]
  assert len(batching.tokenized([], None)) == 0
