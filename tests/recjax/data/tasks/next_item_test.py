"""next_item: what decoders and encoder–decoders read and learn, in words and in ids."""

import collections
import dataclasses

import numpy as np
import pytest

from recjax.data.corpus import Corpus
from recjax.data.loader import fingerprint
from recjax.data.tasks import TASKS, NextItem
from recjax.train import make_stream
from tests.recjax.data.tasks.reading import example, pairs, read, sequence, sid

BARE = NextItem(prompts=('{history}',), max_items=6)


def test_a_decoder_learns_every_position_of_a_window(decoder_corpus):
  corpus = decoder_corpus
  component = NextItem(max_items=6)
  items = sequence(corpus, 0)[:6]
  for index, words in enumerate(component.wordings):
    got = example(component, corpus, 0, index)
    assert read(corpus, got.inputs) == f'<bos> {words.format(history=sid(corpus, items[0]))}'
    assert read(corpus, got.targets) == sid(corpus, *items[1:])
    assert got.learnt is None and got.history == (3,)
    head = [corpus.dataset.vocabulary.bos_id, *corpus.dataset.vocabulary.encode(words[:-9])]
    assert got.inputs[: got.history_start].tolist() == head
    assert got.shorter(1).inputs.tolist() == head


def test_an_encoder_decoder_learns_one_position_an_example(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  component = dataclasses.replace(BARE, max_items=4)
  assert component.num_units(corpus) == len(pairs(corpus))
  for unit, (u, p) in enumerate(pairs(corpus)):
    items = sequence(corpus, u)
    got = example(component, corpus, unit)
    shown = items[max(0, p - 3) : p]
    assert read(corpus, got.inputs) == f'{sid(corpus, *shown)} <eos>'
    assert read(corpus, got.targets) == sid(corpus, items[p])
    assert got.history == (3,) * len(shown) and got.history_start == 0


def test_titles_are_read_but_not_learnt(decoder_corpus):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, show='both', title_tokens=50)
  assert component.needs == {'titles'}
  start, size, context = corpus.windows(6)[2]
  assert context == 1
  items, catalogue = corpus.train.values[start : start + size], corpus.dataset.items
  lines = [f'{sid(corpus, i)} {catalogue[i].get("title", "")} <separator>' for i in items]
  got = example(component, corpus, 2)
  assert read(corpus, got.inputs) == ' '.join(f'<bos> {lines[0]}'.split())
  targets = ' '.join([*lines[1:-1], sid(corpus, items[-1])])
  assert read(corpus, got.targets) == ' '.join(targets.split())
  space = corpus.dataset.vocabulary.space
  assert got.learnt.tolist() == (got.targets >= space.sid_start).tolist()
  cut = example(dataclasses.replace(component, title_tokens=2), corpus, 2)
  assert cut.history[0] <= 3 + 2 + 1


def test_titles_alone_use_pairs_so_that_no_earlier_answer_is_read(decoder_corpus):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, show='title', title_tokens=50)
  assert component.num_units(corpus) == len(pairs(corpus))
  u, p = pairs(corpus)[3]
  got = example(component, corpus, 3)
  titles = [corpus.dataset.items[i]['title'] for i in sequence(corpus, u)[max(0, p - 5) : p]]
  expected = ' '.join(f'{title} <separator>' for title in titles)
  assert read(corpus, got.inputs) == f'<bos> {expected}'
  assert read(corpus, got.targets) == sid(corpus, sequence(corpus, u)[p])


def test_gaps_and_events_follow_their_item_and_do_not_reveal_the_next(decoder_corpus):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, gaps=True, events=True)
  assert component.needs == {'times', 'events'}
  unit = next(n for n in range(40) if corpus.windows(6)[n][1:] == (6, 1))
  start, size, _ = corpus.windows(6)[unit]
  dataset, items = corpus.dataset, corpus.train.values
  names = dataset.event_names
  limits = (86_399, 172_800, 604_800, 2_678_400, 31_622_400)
  words = (
    'the same day',
    'after a day',
    'after days',
    'after weeks',
    'after months',
    'after years',
  )

  def note(at):
    text = f'({names[dataset.train_events[at]]})'
    if at > start:
      gap = dataset.train_times[at] - dataset.train_times[at - 1]
      text = f'({words[sum(gap > limit for limit in limits)]}) {text}'
    return text

  lines = [f'{sid(corpus, items[at])} {note(at)}' for at in range(start, start + size)]
  lines[-1] = sid(corpus, items[start + size - 1])
  got = example(component, corpus, unit)
  text = f'{read(corpus, got.inputs)} {read(corpus, got.targets)}'
  assert text == f'<bos> {" ".join(lines)}'
  assert got.learnt.sum() == 3 * (size - 1)
  # The prompt of inference is what the last position of the window was learnt from.
  prompt = component.inference_prompt(
    corpus,
    np.asarray(items[start : start + size - 1]),
    np.asarray(dataset.train_times[start : start + size - 1]),
    np.asarray(dataset.train_events[start : start + size - 1]),
  )
  whole = np.concatenate([got.inputs, got.targets])
  last = note(start + size - 2)
  assert read(corpus, prompt) == f'{read(corpus, whole[:-3])}'
  assert read(corpus, prompt).endswith(last)
  assert len(prompt) <= component.max_prompt_length(corpus)


@pytest.mark.parametrize('show', ['sid', 'title', 'both'])
def test_the_inference_prompt_equals_the_training_prompt(
  decoder_corpus, encoder_decoder_corpus, show
):
  component = NextItem(max_items=5, show=show)
  for corpus in (decoder_corpus, encoder_decoder_corpus):
    longest = 0
    for unit in range(0, component.num_units(corpus), 7):
      got = example(component, corpus, unit)
      if component._in_pairs(corpus):
        first, position, _ = corpus.positions[unit]
        history = corpus.train.values[first:position]
        np.testing.assert_array_equal(component.inference_prompt(corpus, history), got.inputs)
      else:
        start, size, _ = corpus.windows(5)[unit]
        history = corpus.train.values[start : start + size - 1]
        whole = np.concatenate([got.inputs, got.targets])[:-3]
        np.testing.assert_array_equal(component.inference_prompt(corpus, history), whole)
      longest = max(longest, len(component.inference_prompt(corpus, history)))
    assert longest <= component.max_prompt_length(corpus)


def test_prompts_must_end_with_the_history():
  with pytest.raises(ValueError, match=r'must end with \{history\}; got'):
    NextItem(prompts=('{history} then',))
  with pytest.raises(ValueError, match=r'must name \{history\} once; got'):
    NextItem(prompts=('then',))
  with pytest.raises(ValueError, match='max_items must be at least 2; got 1'):
    NextItem(max_items=1)
  with pytest.raises(ValueError, match='show must be one of sid, title, both'):
    NextItem(show='asin')


@pytest.mark.parametrize('show', ['sid', 'both'])
def test_context_events_are_read_but_not_learnt(viewed, show):
  """Every purchase after a user's first interaction is learnt once; views are not."""
  corpus = Corpus(viewed, is_encoder_decoder=False)
  is_bought = viewed.train_events == viewed.event_names.index('buy')
  component = dataclasses.replace(BARE, show=show, events=show == 'both')
  learnt = collections.Counter()
  for unit in range(component.num_units(corpus)):
    start, size, context = corpus.windows(6)[unit]
    got = example(component, corpus, unit)
    mask = np.ones(len(got.targets), bool) if got.learnt is None else got.learnt
    marked = [at for at in range(start + context, start + size) if is_bought[at]]
    items = corpus.train.values[marked]
    assert got.targets[mask].tolist() == corpus.sid_tokens_IL[items].ravel().tolist()
    assert marked[0] == start + context and marked[-1] == start + size - 1
    learnt.update(marked)
  first = set(corpus.train.offsets[:-1].tolist())
  expected = [at for at in np.flatnonzero(is_bought).tolist() if at not in first]
  assert learnt == collections.Counter(expected)


def test_an_encoder_decoder_and_other_tasks_have_no_context_event_as_target(viewed):
  corpus = Corpus(viewed, is_encoder_decoder=True)
  is_bought = viewed.train_events == viewed.event_names.index('buy')
  for component in (
    BARE,
    TASKS['ranking'](candidates=4),
    TASKS['bpr'](),
    TASKS['history_to_title'](),
  ):
    units = [corpus.positions[unit][1] for unit in range(component.num_units(corpus))]
    assert len(units) > 50 and is_bought[units].all()
  mim = TASKS['mim'](max_items=6)
  for unit in range(mim.num_units(corpus)):
    start, size, _ = corpus.windows(6)[unit]
    masked = example(mim, corpus, unit).targets
    bought = corpus.train.values[start : start + size][is_bought[start : start + size]]
    assert {*map(tuple, masked.reshape(-1, 3).tolist())} <= {
      *map(tuple, corpus.sid_tokens_IL[bought].tolist())
    }


def test_the_kinds_of_events_belong_to_the_stream_if_some_are_context(rated, viewed):
  config, plain = rated
  bare = dataclasses.replace(config, mixture={'next_item': BARE})
  before, after = (
    fingerprint(make_stream(bare, dataset), bare.mixing) for dataset in (plain, viewed)
  )
  changed = {name for name in before if before[name] != after[name]}
  assert changed <= {'sequences', 'packing'} and 'sequences' in changed


def test_a_crop_is_a_random_contiguous_part_of_a_window(decoder_corpus):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, crop=1.0)
  unit = next(n for n in range(40) if corpus.windows(6)[n][1:] == (6, 1))
  start, size, _ = corpus.windows(6)[unit]
  items = corpus.train.values[start : start + size].tolist()
  parts = {(m, at): items[at : at + m] for m in range(2, 7) for at in range(7 - m)}
  counts = collections.Counter()
  for index in range(3000):
    got = example(component, corpus, unit, index)
    tokens = np.concatenate([got.inputs[1:], got.targets])
    shown = next(key for key, part in parts.items()
                 if np.array_equal(corpus.sid_tokens_IL[part].ravel(), tokens))  # fmt: skip
    assert got.history == (3,)
    counts[shown] += 1
  for (
    m,
    at,
  ), count in counts.items():  # a length has probability 1/5, then every place the same one
    assert abs(count - 600 / (7 - m)) < 5 * (600 / (7 - m)) ** 0.5, (m, at)
  assert counts.keys() == parts.keys()
  again = [example(component, corpus, unit, 17).targets.tolist() for _ in range(2)]
  assert again[0] == again[1]


def test_half_of_the_examples_are_cropped(decoder_corpus):
  corpus = decoder_corpus
  unit = next(n for n in range(40) if corpus.windows(6)[n][1] == 6)
  component = dataclasses.replace(BARE, crop=0.5)
  sizes = [len(example(component, corpus, unit, n).targets) for n in range(2000)]
  whole = np.mean(np.array(sizes) == len(example(BARE, corpus, unit).targets))
  assert abs(whole - (0.5 + 0.5 / 5)) < 0.06


def test_a_crop_keeps_the_target_of_an_encoder_decoder(encoder_decoder_corpus):
  corpus = encoder_decoder_corpus
  component = dataclasses.replace(BARE, crop=1.0)
  unit = next(n for n, (_, p) in enumerate(pairs(corpus)) if p >= 5)
  u, p = pairs(corpus)[unit]
  lengths = set()
  for index in range(200):
    got = example(component, corpus, unit, index)
    lengths.add(len(got.history))
    assert read(corpus, got.targets) == sid(corpus, sequence(corpus, u)[p])
    assert (
      read(corpus, got.inputs)
      == f'{sid(corpus, *sequence(corpus, u)[p - len(got.history) : p])} <eos>'
    )
  assert lengths == {1, 2, 3, 4, 5}


def test_without_crops_the_identity_is_that_of_earlier_versions(decoder_corpus):
  assert 'crop' not in BARE.identity(decoder_corpus)
  assert dataclasses.replace(BARE, crop=0.1).identity(decoder_corpus)['crop'] == 0.1
