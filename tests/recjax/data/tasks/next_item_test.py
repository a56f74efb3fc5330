"""next_item: windows in which each position is a target once, and tokens by hand."""

import collections
import dataclasses

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.data.tasks.next_item import NextItem, _windows


@pytest.mark.parametrize('max_items', [2, 3, 5, 8])
def test_each_position_after_the_first_is_a_target_once(max_items):
  rng = np.random.default_rng(max_items)
  lengths = [0, 1, 2, max_items - 1, max_items, max_items + 1, *rng.integers(0, 40, 30)]
  train = Sequences.from_lists([list(range(n)) for n in lengths])
  seen = collections.Counter()
  for start, size, context in zip(*_windows(train, max_items), strict=True):
    user = int(np.searchsorted(train.offsets, start, side='right')) - 1
    while start >= train.offsets[user + 1]:  # users without items share an offset
      user += 1
    first = start - train.offsets[user]
    assert 1 <= context < size <= max_items
    assert first + size <= lengths[user]
    seen.update((user, first + k) for k in range(context, size))
  assert seen == collections.Counter((u, k) for u, n in enumerate(lengths) for k in range(1, n))


def test_long_users_keep_half_a_window_of_context():
  _, sizes, contexts = _windows(Sequences.from_lists([list(range(30))]), 8)
  assert sizes.tolist() == [8] * 7
  assert contexts.tolist() == [1, 4, 4, 4, 4, 4, 6]  # the last window reaches back to be full


def test_tokens_of_an_example_and_of_a_prompt(tiny_world):
  config, dataset = tiny_world
  component = dataclasses.replace(config.mixture['next_item'], prompt='rustic kettle')
  task = NextItem(component, dataset, is_encoder_decoder=False)
  vocabulary = dataset.vocabulary
  head = [vocabulary.bos_id, *vocabulary.encode('rustic kettle')]
  assert len(head) > 1
  items = dataset.train[0][:8]
  sids_IL = vocabulary.space.tokens(dataset.sids.codes_IL)
  example = task.example(0, 0)
  assert example.inputs.tolist() == head + sids_IL[items[0]].tolist()
  assert example.targets.tolist() == sids_IL[items[1:]].ravel().tolist()
  assert example.history == (len(head), len(head) + 3, 3)
  assert example.without_oldest().inputs.tolist() == head
  history = np.arange(12)
  expected = head + sids_IL[5:12].ravel().tolist()
  assert task.prompt(history).tolist() == expected
  assert task.max_prompt_length == len(expected)


def test_names_of_tokens_can_be_read(tiny_world):
  _, dataset = tiny_world
  vocabulary = dataset.vocabulary
  ids = [*vocabulary.encode('kettle'), vocabulary.special_id('<mask>')]
  ids += vocabulary.space.tokens(np.array([3, 15, 1])).tolist()
  assert vocabulary.decode(ids) == 'kettle <mask> <a_3> <b_15> <c_1>'


def test_an_encoder_decoder_learns_one_position_an_example(tiny_world):
  config, dataset = tiny_world
  component = dataclasses.replace(config.mixture['next_item'], max_items=4)
  task = NextItem(component, dataset, is_encoder_decoder=True)
  sids_IL = dataset.vocabulary.space.tokens(dataset.sids.codes_IL)
  assert len(task) == (dataset.train.lengths - 1).sum()
  expected = []
  for u in range(dataset.num_users):
    items = dataset.train[u]
    for p in range(1, len(items)):
      history = sids_IL[items[max(0, p - 3) : p]].ravel().tolist()
      expected.append(([*history, dataset.vocabulary.eos_id], sids_IL[items[p]].tolist()))
  got = [task.example(unit, 0) for unit in range(len(task))]
  assert [(e.inputs.tolist(), e.targets.tolist()) for e in got] == expected
  longest = max(got, key=lambda e: len(e.inputs))
  assert task.max_prompt_length == len(longest.inputs) == 10
  assert longest.history == (0, 9, 3)
  assert task.prompt(dataset.train[0]).tolist()[-1] == dataset.vocabulary.eos_id
