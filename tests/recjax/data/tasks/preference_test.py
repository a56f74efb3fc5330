"""Ranking, preference and ratings, compared with the log."""

import collections
import dataclasses
import re
import shutil

import numpy as np
import pytest

from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks import Bpr, Ranking, Rating
from tests.recjax.data.tasks.reading import example, pairs, read, sequence, sid


def items_of(corpus, text):
  """The items that a text shows, in order."""
  rows = {sid(corpus, i): i for i in range(corpus.dataset.num_items)}
  return [rows[found] for found in re.findall(r'<a_\d+> <b_\d+> <c_\d+>', text)]


@pytest.mark.parametrize('negatives', ['popularity', 'uniform'])
def test_candidates_are_the_next_item_and_others_that_the_user_does_not_have(
  decoder_corpus, negatives
):
  corpus = decoder_corpus
  component = Ranking(candidates=5, max_items=4, negatives=negatives)
  places = collections.Counter()
  for unit, (u, p) in enumerate(pairs(corpus)):
    got = example(component, corpus, unit, unit)
    items, history = sequence(corpus, u), sequence(corpus, u)[max(0, p - 3) : p]
    text = read(corpus, got.inputs)
    assert text.startswith(f'<bos> {component.wordings[unit % 3].split("{")[0].strip()}')
    shown = items_of(corpus, text)
    assert shown[: len(history)] == history
    candidates = shown[len(history) :]
    assert len(set(candidates)) == 5
    assert set(candidates) & set(items) == {items[p]}
    assert read(corpus, got.targets) == sid(corpus, items[p])
    places[candidates.index(items[p])] += 1
  assert set(places) == set(range(5))
  assert max(places.values()) < 2 * len(pairs(corpus)) / 5


def test_the_order_is_the_true_item_then_the_others_by_popularity(decoder_corpus):
  corpus = decoder_corpus
  counts = collections.Counter(corpus.train.values.tolist())
  for unit, (u, p) in list(enumerate(pairs(corpus)))[:30]:
    got = example(Ranking(candidates=6, answer='order'), corpus, unit)
    first, *others = items_of(corpus, read(corpus, got.targets))
    assert first == sequence(corpus, u)[p]
    assert others == sorted(others, key=lambda i: (-counts[i], i))
    assert len(others) == 5


def test_negatives_by_popularity_are_drawn_in_proportion(decoder_corpus):
  corpus = decoder_corpus
  rng = np.random.default_rng(0)
  drawn = collections.Counter()
  for _ in range(4000):
    drawn.update(corpus.negatives(rng, np.array([3]), 1, 'popularity').tolist())
  counts = np.bincount(corpus.train.values, minlength=24).astype(float)
  counts[3] = 0
  expected = 4000 * counts / counts.sum()
  got = np.array([drawn[i] for i in range(24)])
  assert (np.abs(got - expected) < 5 * np.sqrt(expected + 1)).all()
  # Nearly everything excluded: what is left is still found.
  assert corpus.negatives(rng, np.arange(22), 2, 'popularity').tolist() in ([22, 23], [23, 22])


@pytest.mark.parametrize('liked_from', [4.0, 2.5])
def test_pairs_of_ratings_are_a_liked_and_a_lower_rated_item_of_one_user(
  decoder_corpus, liked_from
):
  corpus = decoder_corpus
  component = Bpr(max_items=20, pairs='ratings', liked_from=liked_from)
  units = []  # every liked place of a user with another item that is not liked
  for u, p in pairs(corpus):
    ratings = corpus.dataset.train_ratings[slice(*corpus.train.offsets[u : u + 2])].tolist()
    items = sequence(corpus, u)
    others = {i for i, r in zip(items, ratings, strict=True) if r < liked_from and i != items[p]}
    if ratings[p] >= liked_from and others:
      units.append((u, p, others))
  assert component.num_units(corpus) == len(units) > 20
  for unit, (u, p, others) in enumerate(units):
    got = example(component, corpus, unit, unit)
    shown = items_of(corpus, read(corpus, got.inputs))
    (liked,) = items_of(corpus, read(corpus, got.targets))
    pair, history = shown[-2:], shown[:-2]
    items = sequence(corpus, u)
    assert liked == items[p]
    assert set(pair) - {liked} <= others
    assert len(set(pair)) == 2
    assert history == [i for i in items[:p] if i not in pair]


def test_pairs_of_unseen_items_ignore_ratings(decoder_corpus):
  corpus, first = decoder_corpus, 0
  for unit, (u, p) in enumerate(pairs(corpus)):
    got = example(Bpr(), corpus, unit, unit)
    pair = items_of(corpus, read(corpus, got.inputs))[-2:]
    (liked,) = items_of(corpus, read(corpus, got.targets))
    items = sequence(corpus, u)
    assert liked == items[p]
    assert pair[1 - pair.index(liked)] not in items
    first += pair[0] == liked
  assert 0.35 < first / len(pairs(corpus)) < 0.65


class WithoutRatings:
  """The data set of a corpus, without its ratings."""

  def __init__(self, dataset):
    self._dataset = dataset
    self.train_ratings = None

  def __getattr__(self, name):
    return getattr(self._dataset, name)


def test_pairs_of_ratings_need_liked_and_disliked_items(decoder_corpus):
  bare = Corpus(WithoutRatings(decoder_corpus.dataset), is_encoder_decoder=False)
  by_ratings = Bpr(pairs='ratings')
  assert bare.lacks(Rating().needs) == bare.lacks(by_ratings.needs) == ['ratings']
  assert bare.lacks(Bpr().needs) == []
  with pytest.raises(ValueError, match=r'liked_from must leave a user who rated.*got 9'):
    Bpr(pairs='ratings', liked_from=9.0).check_corpus(decoder_corpus)


def test_bpr_without_ratings_keeps_the_identity_of_earlier_versions(decoder_corpus):
  bare = Corpus(WithoutRatings(decoder_corpus.dataset), is_encoder_decoder=False)
  new = {'pairs', 'liked_from'}
  assert not new & set(Bpr().identity(bare))
  assert new <= set(Bpr().identity(decoder_corpus))  # ratings decided the pairs before


def test_items_may_be_shown_with_their_titles(decoder_corpus, encoder_decoder_corpus):
  """id and title of every item, as Cao et al. show them; the answer of a choice is the semantic ID."""
  fields = {'show': 'both', 'title_tokens': 50, 'max_items': 3}
  for corpus in (decoder_corpus, encoder_decoder_corpus):
    titles = [item.get('title', '') for item in corpus.dataset.items]
    line = lambda i: f'{sid(corpus, i)} {titles[i]} <separator>'  # noqa: B023, E731
    ratings, offsets = corpus.dataset.train_ratings, corpus.train.offsets
    first, last = ('', ' <eos>') if corpus.is_encoder_decoder else ('<bos> ', '')
    for unit, (u, p) in list(enumerate(pairs(corpus)))[:30]:
      items = sequence(corpus, u)
      for component in (Ranking(candidates=4, **fields), Bpr(**fields)):
        assert 'titles' in component.needs
        got = example(component, corpus, unit)
        plain = example(dataclasses.replace(component, show='sid'), corpus, unit)
        expected = re.sub(
          r'<a_\d+> <b_\d+> <c_\d+>',
          lambda sid: line(items_of(corpus, sid.group())[0]),  # noqa: B023
          read(corpus, plain.inputs),
        )
        assert read(corpus, got.inputs) == ' '.join(expected.split())
        np.testing.assert_array_equal(got.targets, plain.targets)
        start, shown = got.history_start, plain.history
        assert len(got.history) == len(shown)
        text = read(corpus, got.inputs[start : start + sum(got.history)])
        assert text == ' '.join(' '.join(map(line, items[max(0, p - 2) : p])).split())
      got = example(Rating(**fields), corpus, unit)
      rated = [f'{line(items[k])} {ratings[offsets[u] + k]:g}' for k in range(max(0, p - 2), p)]
      words = Rating.wordings[0].format(history=' '.join(rated), item=line(items[p]))
      expected = ' '.join(f'{first}{words}{last}'.split())
      assert read(corpus, got.inputs).replace(' .', '.') == expected


def test_ratings_are_written_as_numbers(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  ratings, offsets = corpus.dataset.train_ratings, corpus.train.offsets
  component = Rating(max_items=3)
  for unit, (u, p) in list(enumerate(pairs(corpus)))[:40]:
    items = sequence(corpus, u)
    rated = [
      f'{sid(corpus, items[k])} {ratings[offsets[u] + k]:g}' for k in range(max(0, p - 2), p)
    ]
    got = example(component, corpus, unit)
    words = component.wordings[0].format(history=' '.join(rated), item=sid(corpus, items[p]))
    assert read(corpus, got.inputs).replace(' .', '.') == f'{words} <eos>'
    assert read(corpus, got.targets) == f'{ratings[offsets[u] + p]:g} <eos>'
    start = got.history_start
    shown = read(corpus, got.inputs[start : start + sum(got.history)])
    assert shown == ' '.join(rated)
    assert len(got.history) == len(rated)


def test_rows_without_a_rating_are_shown_without_a_number(rated, tmp_path):
  folder = tmp_path / 'prepared'
  shutil.copytree(rated[0].prepared_folder, folder)
  ratings = np.load(folder / 'interactions' / 'train_ratings.npy')
  ratings[np.random.default_rng(0).random(len(ratings)) < 0.5] = np.nan
  np.save(folder / 'interactions' / 'train_ratings.npy', ratings)
  corpus = Corpus(Dataset.load(folder), is_encoder_decoder=True)
  offsets, component = corpus.train.offsets, Rating(max_items=3)
  units = [(u, p) for u, p in pairs(corpus) if not np.isnan(ratings[offsets[u] + p])]
  assert component.num_units(corpus) == len(units) > 20
  for unit, (u, p) in enumerate(units[:40]):
    items, rated_as = sequence(corpus, u), ratings[offsets[u] :]
    shown = [
      sid(corpus, items[k]) + ('' if np.isnan(rated_as[k]) else f' {rated_as[k]:g}')
      for k in range(max(0, p - 2), p)
    ]
    got = example(component, corpus, unit)
    words = component.wordings[0].format(history=' '.join(shown), item=sid(corpus, items[p]))
    assert read(corpus, got.inputs).replace(' .', '.') == f'{words} <eos>'
    assert read(corpus, got.targets) == f'{rated_as[p]:g} <eos>'
  pair = Bpr(pairs='ratings', liked_from=3.0)
  for unit in range(pair.num_units(corpus)):
    assert ratings[corpus.likes(3.0)[unit][1]] >= 3


def test_fields_are_checked():
  with pytest.raises(ValueError, match='candidates must be at least 2; got 1'):
    Ranking(candidates=1)
  with pytest.raises(ValueError, match='negatives must be one of popularity, uniform'):
    Bpr(negatives='hard')
  with pytest.raises(ValueError, match='weight must not be negative; got -1'):
    Rating(weight=-1.0)
  for schedule in (((5.0, 1.0), (3.0, 1.0)), ((5.0,),), ((),), ((2.5, 1.0),)):
    with pytest.raises(ValueError, match='schedule must be pairs'):
      Rating(schedule=schedule)
