"""A ranker that was warmed compiles nothing more, and ranks as before; its kept prompts and weights."""

import dataclasses

import numpy as np
import pytest

from recjax.decode import precision
from recjax.decode.warm import buckets_of, warm
from recjax.schema import blend
from tests.recjax.decode.ranker_test import ranker_of, small


def test_a_warmed_ranker_ranks_as_before_and_compiles_nothing(tiny_world):
  config, dataset, params = small(tiny_world)
  ranker, histories = ranker_of(config, dataset, 10, blend.Memory(), batch_size=2)
  histories = histories[:5]
  items_UM, scores_UM = ranker.rank(params, histories)
  ranker.keep_prompts(2**22)
  buckets = (ranker.longest // 2, ranker.longest)
  assert warm(ranker, params, 2, buckets) == 4
  programs = ranker._search._cache_size(), ranker.kept._write._cache_size()
  for start in (0, 2, 3):
    found = ranker.rank(params, histories[start : start + 2], few_shapes=True)
    np.testing.assert_array_equal(found[0], items_UM[start : start + 2])
    np.testing.assert_allclose(found[1], scores_UM[start : start + 2], atol=1e-5)
  assert (ranker._search._cache_size(), ranker.kept._write._cache_size()) == programs
  counts = ranker.kept.counts
  assert counts.misses + counts.extended + counts.hits > 3 and counts.hits >= 1
  with pytest.raises(ValueError, match='end with the longest prompt'):
    warm(ranker, params, 2, (1,))
  with pytest.raises(ValueError, match='at least the prompt of an empty history, '):
    warm(ranker, params, 2, (0, ranker.longest))


def test_buckets_double_up_to_the_longest_prompt():
  assert buckets_of(5, 85) == (32, 64, 85)
  assert buckets_of(5, 20) == (20,)
  assert buckets_of(37, 85) == (64, 85)  # the prompt of an empty history has 37 tokens


@pytest.mark.parametrize('dtype', [pytest.param('bfloat16', marks=pytest.mark.soak), 'int8'])
def test_a_search_in_fewer_bits_stays_close_and_reads_weights_stored_in_either_type(
  tiny_world, dtype
):
  config, dataset, params = small(tiny_world)
  settings = dataclasses.replace(config.eval, weights_dtype=dtype)
  few = dataclasses.replace(config, eval=settings)
  exact, histories = ranker_of(config, dataset, 10, blend.Memory())
  ranker, _ = ranker_of(few, dataset, 10, blend.Memory())
  stored = precision.stored(params, dtype, config.model.lora_alpha)
  assert stored['tables']['sid'].dtype == dtype
  found = [ranker.rank(each, histories)[0] for each in (params, stored)]
  np.testing.assert_array_equal(*found)
  assert precision.overlap(found[0], exact.rank(params, histories)[0], 10) > 0.8


def test_the_overlap_counts_common_items():
  ours, theirs = (
    np.array([[1, 2, 3], [4, -1, -1], [-1] * 3]),
    np.array([[3, 9, 1], [5, 4, -1], [-1] * 3]),
  )
  assert precision.overlap(ours, theirs, 3) == (2 / 3 + 1 / 2) / 2
  assert precision.overlap(ours, theirs, 1) == 0
