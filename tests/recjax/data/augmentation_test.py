"""Item dropout and local shuffles: what they keep, their shares, and what of an example stays right."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from recjax.data import augmentation
from recjax.data.corpus import Corpus
from recjax.data.tasks import NextItem
from recjax.train import make_stream
from tests.recjax.data.tasks.reading import example, pairs, read, sequence, sid

BARE = NextItem(prompts=('{history}',), max_items=6)


def drawn(seed, size, item_dropout=0.0, shuffle=0.0):
  return augmentation.changed(np.random.default_rng(seed), size, item_dropout, shuffle).tolist()


def test_dropout_leaves_out_its_share_and_keeps_the_last_item_and_one_before():
  kept = collections.Counter()
  for seed in range(4000):
    shown = drawn(seed, 11, item_dropout=0.3)
    assert shown == sorted(set(shown)) and shown[-1] == 10 and len(shown) >= 2
    kept.update(shown[:-1])
  counts = np.array([kept[n] for n in range(10)])
  assert abs(counts - 2800).max() < 5 * (4000 * 0.3 * 0.7) ** 0.5
  assert {tuple(drawn(seed, 2, item_dropout=0.99)) for seed in range(50)} == {(0, 1)}
  of_three = collections.Counter(tuple(drawn(seed, 3, item_dropout=0.5)) for seed in range(4000))
  # Of both, the first or the second alone; where both are drawn, the second stays.
  for shown, share in {(0, 1, 2): 0.25, (0, 2): 0.25, (1, 2): 0.5}.items():
    assert abs(of_three[shown] - 4000 * share) < 150


def test_a_shuffle_permutes_one_short_span_before_the_last_item():
  """Counts every order of 5 items against the probability that the rule gives it, by enumeration."""
  expected = collections.Counter()
  for span in (2, 3, 4):
    for start in range(4 - span + 1):
      orders = list(itertools.permutations(range(start, start + span)))
      for order in orders:
        shown = [*range(start), *order, *range(start + span, 5)]
        expected[tuple(shown)] += 1 / 3 / (4 - span + 1) / len(orders)
  assert sum(expected.values()) == pytest.approx(1)
  draws = 12_000
  counts = collections.Counter(tuple(drawn(seed, 5, shuffle=1.0)) for seed in range(draws))
  assert counts.keys() == expected.keys()
  for shown, share in expected.items():
    assert abs(counts[shown] - draws * share) < 5 * (draws * share) ** 0.5
  longest = [np.flatnonzero(drawn(seed, 30, shuffle=1.0) != np.arange(30)) for seed in range(300)]
  assert max(np.ptp(places) for places in longest if len(places)) == augmentation.SPAN - 1
  half = np.mean([drawn(seed, 30, shuffle=0.5) != list(range(30)) for seed in range(4000)])
  whole = np.mean([drawn(seed, 30, shuffle=1.0) != list(range(30)) for seed in range(4000)])
  assert abs(half - whole / 2) < 0.04


def test_a_window_learns_what_it_shows_after_its_first_item(decoder_corpus):
  corpus, component = decoder_corpus, dataclasses.replace(BARE, item_dropout=0.4, shuffle=0.5)
  seen = set()
  for unit in range(0, component.num_units(corpus), 5):
    start, size, context = corpus.windows(6)[unit]
    items = corpus.train.values[start : start + size]
    for index in range(20):
      got = example(component, corpus, unit, index)
      shown = augmentation.changed(
        np.random.Generator(np.random.Philox(key=[7, index])), size, 0.4, 0.5
      )
      first = max(sum(place < context for place in shown), 1)
      assert read(corpus, got.inputs) == f'<bos> {sid(corpus, *items[shown[:first]])}'
      assert read(corpus, got.targets) == sid(corpus, *items[shown[first:]])
      assert got.learnt is None and got.history == (3,) * first
      seen.add((len(shown) < size, shown.tolist() != sorted(shown), first < context))
  cases = set(itertools.product([False, True], repeat=3))
  assert seen == cases - {(False, False, True), (False, True, True)}  # context needs a lost item


def test_a_pair_keeps_its_target(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  component = dataclasses.replace(BARE, item_dropout=0.4, shuffle=0.5, crop=0.5)
  unit = next(n for n, (_, p) in enumerate(pairs(corpus)) if p >= 5)
  u, p = pairs(corpus)[unit]
  history = sequence(corpus, u)[p - 5 : p]
  lengths = set()
  for index in range(200):
    got = example(component, corpus, unit, index)
    lengths.add(len(got.history))
    assert read(corpus, got.targets) == sid(corpus, sequence(corpus, u)[p])
    shown = corpus.sid_tokens_IL[history].tolist()
    rows = got.inputs[:-1].reshape(-1, 3).tolist()
    assert all(row in shown for row in rows) and len(rows) == len(got.history)
  assert lengths == {1, 2, 3, 4, 5}


def test_items_of_context_are_not_learnt_wherever_they_are_moved(viewed):
  corpus = Corpus(viewed, is_encoder_decoder=False)
  component = dataclasses.replace(BARE, item_dropout=0.2, shuffle=1.0, events=True)
  is_bought = viewed.train_events == viewed.event_names.index('buy')
  for unit in range(component.num_units(corpus)):
    start, size, context = corpus.windows(6)[unit]
    rng = np.random.Generator(np.random.Philox(key=[7, unit]))
    shown = augmentation.changed(rng, size, 0.2, 1.0)
    got = example(component, corpus, unit, unit)
    later = start + shown[max(sum(place < context for place in shown), 1) :]
    bought = corpus.train.values[later[is_bought[later]]]
    tokens = got.targets if got.learnt is None else got.targets[got.learnt]
    assert tokens.tolist() == corpus.sid_tokens_IL[bought].ravel().tolist()
    kinds = [viewed.event_names[viewed.train_events[at]] for at in later[:-1]]
    words = read(corpus, got.targets).replace('<', ' ').replace('(', ' ').replace(')', ' ').split()
    assert [word for word in words if word in viewed.event_names] == kinds


def test_gaps_stay_those_of_ascending_times(decoder_corpus):
  corpus = decoder_corpus
  plain = dataclasses.replace(BARE, gaps=True)
  unit = next(n for n in range(40) if corpus.windows(6)[n][1:] == (6, 1))
  whole = example(plain, corpus, unit)
  for index in range(20):
    got = example(dataclasses.replace(plain, shuffle=1.0), corpus, unit, index)
    is_word = [
      tokens < corpus.dataset.vocabulary.space.sid_start for tokens in (whole.targets, got.targets)
    ]
    assert whole.targets[is_word[0]].tolist() == got.targets[is_word[1]].tolist()


def test_the_stream_is_the_same_on_all_hosts_and_after_a_restart(rated):
  config, dataset = rated
  augmented = dataclasses.replace(BARE, crop=0.5, item_dropout=0.2, shuffle=0.5)
  config = dataclasses.replace(config, mixture={'next_item': augmented})
  stream, again = make_stream(config, dataset), make_stream(config, dataset)
  groups = [stream.group(g) for g in range(8)]
  assert all(
    np.array_equal(got[name], expected)
    for g in reversed(range(8))  # no example depends on an earlier one
    for got in [again.group(g)]
    for name, expected in groups[g].items()
  )
  whole = dataclasses.replace(again, groups=4)
  parts = [whole.host_batch(4 * stream.plan.examples, host, 4) for host in range(4)]
  for name in groups[0]:
    expected = np.concatenate([groups[4 + k][name] for k in range(4)])
    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


def test_fields_at_their_default_leave_the_identity_of_earlier_versions(decoder_corpus):
  assert not {'item_dropout', 'shuffle'} & BARE.identity(decoder_corpus).keys()
  changed = dataclasses.replace(BARE, item_dropout=0.1, shuffle=0.2).identity(decoder_corpus)
  assert (changed['item_dropout'], changed['shuffle']) == (0.1, 0.2)
  with pytest.raises(ValueError, match=r'item_dropout must be in \[0, 1\); got 1'):
    dataclasses.replace(BARE, item_dropout=1)
  with pytest.raises(ValueError, match=r'shuffle must be in \[0, 1\]; got -0.1'):
    dataclasses.replace(BARE, shuffle=-0.1)
