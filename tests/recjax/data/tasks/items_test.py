"""Neighbours, titles and descriptions: tasks whose unit is an item or a SID token."""

import dataclasses

import numpy as np
import pytest

from recjax.data.tasks import (
  CollaborativeNeighbours,
  DescriptionToToken,
  HistoryToTitle,
  SemanticNeighbours,
  SidToTitle,
  TitleToSid,
  TokenToDescription,
)
from tests.recjax.data.tasks.reading import example, pairs, read, sequence, sid


@pytest.mark.parametrize('kind', [CollaborativeNeighbours, SemanticNeighbours])
def test_neighbours_are_learnt_in_order(decoder_corpus, kind):
  corpus = decoder_corpus
  component = kind(k=3)
  relation = component.relation(corpus)
  items = [i for i in range(24) if len(relation[i])]
  assert component.num_units(corpus) == len(items)
  for unit, item in enumerate(items):
    got = example(component, corpus, unit)
    assert read(corpus, got.targets) == sid(corpus, *relation[item][:3])
    words = component.wordings[0].format(item=sid(corpus, item))
    assert read(corpus, got.inputs).replace(' ,', ',') == f'<bos> {words}'


def test_shuffled_neighbours_are_the_same_lists_at_other_items(decoder_corpus):
  corpus = decoder_corpus
  plain, control = SemanticNeighbours(k=3), SemanticNeighbours(k=3, shuffle_seed=1)
  units = range(plain.num_units(corpus))
  own, other = (
    [example(component, corpus, unit) for unit in units] for component in (plain, control)
  )
  for a, b in zip(own, other, strict=True):
    np.testing.assert_array_equal(a.inputs, b.inputs)
  # Every list is the answer once more, and of another item; equal lists of two items are one text.
  owned, given = ([read(corpus, each.targets) for each in part] for part in (own, other))
  assert sorted(owned) == sorted(given)
  assert sum(a == b for a, b in zip(owned, given, strict=True)) <= len(owned) - len(set(owned))
  again = [example(control, corpus, unit, 5).targets for unit in units]
  assert [read(corpus, targets) for targets in again] == given
  another = SemanticNeighbours(k=3, shuffle_seed=2)
  assert [read(corpus, example(another, corpus, unit).targets) for unit in units] != given
  assert 'shuffle_seed' not in plain.identity(corpus)
  assert control.identity(corpus)['shuffle_seed'] == 1


def test_an_item_may_be_shown_with_its_title_which_may_be_cut(decoder_corpus):
  corpus = decoder_corpus
  got = example(SemanticNeighbours(k=2, show='both'), corpus, 0)
  item = int(np.flatnonzero(corpus.dataset.semantic.lengths)[0])
  title = corpus.dataset.items[item]['title']
  assert f'{sid(corpus, item)} {title} <separator>' in read(corpus, got.inputs)
  assert read(corpus, got.inputs[slice(*got.text)]) == title
  shorter = got.shorter(100)
  assert f'{sid(corpus, item)} <separator>' in read(corpus, shorter.inputs)


def test_k_above_the_longest_list_of_neighbours_is_refused(decoder_corpus):
  with pytest.raises(ValueError, match=r'k must be at most the longest prepared list \(5;.*got 6'):
    SemanticNeighbours(k=6).check_corpus(decoder_corpus)
  with pytest.raises(ValueError, match=r'must leave room in the catalogue of 24 items; got 24'):
    CollaborativeNeighbours(k=24).check_corpus(decoder_corpus)


def test_title_to_sid_and_sid_to_title(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  titled = [i for i in range(24) if corpus.dataset.items[i].get('title')]
  assert len(titled) == 23
  forward, back = TitleToSid(), SidToTitle()
  assert forward.num_units(corpus) == back.num_units(corpus) == 23
  for unit, item in enumerate(titled):
    title = corpus.dataset.items[item]['title']
    got = example(forward, corpus, unit, 1)
    assert read(corpus, got.inputs) == f'Which item has the title {title} ? <eos>'
    assert read(corpus, got.inputs[slice(*got.text)]) == title
    assert read(corpus, got.targets) == sid(corpus, item)
    got = example(back, corpus, unit)
    assert read(corpus, got.inputs) == f'The title of {sid(corpus, item)} is <eos>'
    assert read(corpus, got.targets) == f'{title} <eos>'
    np.testing.assert_array_equal(back.inference_prompt(corpus, item), got.inputs)


def test_a_history_gives_the_title_of_the_next_item(decoder_corpus):
  corpus = decoder_corpus
  component = HistoryToTitle(max_items=4)
  for unit, (u, p) in enumerate(pairs(corpus)):
    got = example(component, corpus, unit)
    items = sequence(corpus, u)
    title = corpus.dataset.items[items[p]].get('title', '')
    assert read(corpus, got.targets) == f'{title} <eos>'.strip()
    assert sid(corpus, *items[max(0, p - 3) : p]) in read(corpus, got.inputs)
    assert got.history == (3,) * min(p, 3)
    np.testing.assert_array_equal(component.inference_prompt(corpus, items[:p]), got.inputs)


def test_token_to_description_and_description_to_token(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  entries = {entry['token']: entry['description'] for entry in corpus.dataset.keywords}
  describe, find = TokenToDescription(description_tokens=500), DescriptionToToken()
  assert describe.num_units(corpus) == len(entries) == 10  # 4 + 6 codes; no de-duplication codes
  found = set()
  for unit in range(10):
    got = example(describe, corpus, unit, 2)
    words = read(corpus, got.inputs).split()
    assert words[:2] == ['Items', 'with'] and words[3:] == ['are', '<eos>']
    assert read(corpus, got.targets) == f'{" ".join(entries[words[2]].split())} <eos>'
    back = example(find, corpus, unit)
    # With unlearnt end tokens a row holds no more targets of a level than with complete semantic IDs.
    assert read(corpus, back.targets).split() == [words[2], '<eos>', '<eos>']
    assert back.learnt.tolist() == [True, False, False]
    found.add(words[2])
  assert found == set(entries)
  cut = example(dataclasses.replace(describe, description_tokens=3), corpus, 0)
  assert len(cut.targets) == 4
