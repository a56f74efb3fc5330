"""Answers with titles: what is read and what is learnt, for every task that lists items, in both formats."""

import dataclasses
import re

import numpy as np
import pytest

from recjax.data.corpus import Corpus
from recjax.data.loader import make_stream
from recjax.data.mixture import build
from recjax.data.tasks import CollaborativeNeighbours, Mim, NextItem, SemanticNeighbours
from recjax.data.tasks.masked import MASKED
from recjax.schema.stream import Mixing, Packing
from tests.recjax.data.tasks.reading import example, pairs, read, sequence, sid

BARE = NextItem(prompts=('{history}',), max_items=6)
LEARNT = [('both', 0), ('title', 3)]  # the first learnt token of a line


def line(corpus, item):
  """An item line as text."""
  return f'{sid(corpus, item)} {corpus.dataset.items[item].get("title", "")} <separator>'


def lines(corpus, items):
  return ' '.join(' '.join(line(corpus, item) for item in items).split())


def learnt_of(example):
  return np.ones(len(example.targets), bool) if example.learnt is None else example.learnt


@pytest.mark.parametrize('show', ['sid', 'both'])
@pytest.mark.parametrize('learn', ['title', 'both'])
def test_a_window_holds_lines_and_the_last_title_follows_its_sid(decoder_corpus, show, learn):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, show=show, learn=learn, title_tokens=50)
  first_sid = corpus.dataset.vocabulary.space.sid_start
  assert component.needs == {'titles'} and component.text_targets
  for unit in range(component.num_units(corpus)):
    start, size, context = corpus.windows(6)[unit]
    items = corpus.train.values[start : start + size].tolist()
    got = example(component, corpus, unit)
    assert read(corpus, got.inputs) == f'<bos> {lines(corpus, items[:context])}'
    assert read(corpus, got.targets) == lines(corpus, items[context:])
    assert sum(got.history) == len(got.inputs) - got.history_start
    assert read(corpus, got.without_spare().inputs) == '<bos>'
    expected = np.ones(len(got.targets), bool) if learn == 'both' else got.targets < first_sid
    np.testing.assert_array_equal(learnt_of(got), expected)
    # The search's prompt is what stood before the last SID in training.
    whole = np.concatenate([got.inputs, got.targets])
    prompt = component.inference_prompt(corpus, np.array(items[:-1]))
    np.testing.assert_array_equal(prompt, whole[: len(prompt)])
    following = whole[len(prompt) : len(prompt) + 3]
    np.testing.assert_array_equal(following, corpus.sid_tokens_IL[items[-1]])
    assert len(prompt) <= component.max_prompt_length(corpus)


@pytest.mark.parametrize(('learn', 'skipped'), LEARNT)
def test_a_pair_answers_with_the_line_of_its_target(
  decoder_corpus, encoder_decoder_corpus, learn, skipped
):
  for corpus, show in ((encoder_decoder_corpus, 'sid'), (decoder_corpus, 'title')):
    component = dataclasses.replace(BARE, show=show, learn=learn, title_tokens=50)
    plain = dataclasses.replace(component, learn='sid')
    for unit, (u, p) in list(enumerate(pairs(corpus)))[:60]:
      got = example(component, corpus, unit)
      item = sequence(corpus, u)[p]
      np.testing.assert_array_equal(got.inputs, example(plain, corpus, unit).inputs)
      assert read(corpus, got.targets) == f'{lines(corpus, [item])} <eos>'
      assert learnt_of(got).tolist() == [n >= skipped for n in range(len(got.targets))]


def test_notes_between_lines_are_not_learnt(decoder_corpus):
  corpus = decoder_corpus
  component = dataclasses.replace(BARE, learn='both', events=True, title_tokens=50)
  unit = next(n for n in range(40) if corpus.windows(6)[n][1:] == (6, 1))
  start, size, _ = corpus.windows(6)[unit]
  names, dataset = corpus.dataset.event_names, corpus.dataset
  noted = [f'{lines(corpus, [corpus.train.values[at]])} ({names[dataset.train_events[at]]})'
           for at in range(start, start + size)]  # fmt: skip
  noted[-1] = noted[-1].rsplit(' ', 1)[0]
  got = example(component, corpus, unit)
  assert f'{read(corpus, got.inputs)} {read(corpus, got.targets)}' == f'<bos> {" ".join(noted)}'
  unlearnt = read(corpus, got.targets[~got.learnt])
  assert unlearnt == ' '.join(re.findall(r'\(\w+\)', ' '.join(noted[1:])))


def test_lines_of_context_events_are_not_learnt(viewed):
  corpus = Corpus(viewed, is_encoder_decoder=False)
  is_bought = viewed.train_events == viewed.event_names.index('buy')
  component = dataclasses.replace(BARE, learn='both', title_tokens=50)
  views = 0
  for unit in range(component.num_units(corpus)):
    start, size, context = corpus.windows(6)[unit]
    got = example(component, corpus, unit)
    marked = [at for at in range(start + context, start + size) if is_bought[at]]
    views += size - context - len(marked)
    learnt = read(corpus, got.targets[got.learnt])
    assert learnt == lines(corpus, corpus.train.values[marked].tolist())
  assert views > 5


@pytest.mark.parametrize(('learn', 'skipped'), LEARNT)
@pytest.mark.parametrize('kind', [CollaborativeNeighbours, SemanticNeighbours])
def test_neighbours_are_answered_with_lines(
  decoder_corpus, encoder_decoder_corpus, kind, learn, skipped
):
  component = kind(k=3, learn=learn, title_tokens=50)
  assert component.needs == {component.task.removesuffix('_neighbours'), 'titles'}
  for corpus in (decoder_corpus, encoder_decoder_corpus):
    relation = component.relation(corpus)
    for unit, item in enumerate(i for i in range(24) if len(relation[i])):
      got, plain = (
        example(some, corpus, unit)
        for some in (component, dataclasses.replace(component, learn='sid'))
      )
      near = relation[item][:3].tolist()
      np.testing.assert_array_equal(got.inputs, plain.inputs)
      assert read(corpus, got.targets) == f'{lines(corpus, near)} <eos>'
      expected = [n >= skipped for i in near for n in range(len(corpus.shown('both', 50)[i]))]
      assert learnt_of(got).tolist() == [*expected, True]


def test_masked_items_are_answered_with_lines(decoder_corpus, encoder_decoder_corpus):
  component = Mim(max_items=8, mask_share=0.4, show='both', learn='both', title_tokens=50)
  one = dataclasses.replace(component, mask_share=0.01)
  for corpus in (decoder_corpus, encoder_decoder_corpus):
    for unit in range(0, component.num_units(corpus), 3):
      start, size, _ = corpus.windows(8)[unit]
      items = corpus.train.values[start : start + size].tolist()
      got = example(component, corpus, unit, unit)
      whole, targets = read(corpus, got.inputs), read(corpus, got.targets)
      assert got.learnt is None and targets.endswith('<separator> <eos>')
      hidden = re.findall(r'<a_.*?<separator>', targets)
      assert len(hidden) == whole.count('<mask>') == max(round(0.4 * size), 1)
      for text in hidden:
        whole = whole.replace('<mask>', text, 1)
      assert lines(corpus, items) in whole
      # The evaluator of masked items continues this prompt with a SID.
      got = example(one, corpus, unit, 3 * unit)
      masked = len(got.history)
      shown = np.array([*items[:masked], MASKED, *items[masked + 1 :]])
      np.testing.assert_array_equal(one.inference_prompt(corpus, shown), got.inputs)
      np.testing.assert_array_equal(got.targets[:3], corpus.sid_tokens_IL[items[masked]])


def test_titles_in_answers_are_cut_and_items_without_a_title_have_a_separator(decoder_corpus):
  corpus = decoder_corpus  # item 23 has no title
  tokens, learnt = NextItem(learn='title', title_tokens=2).answer(corpus, np.array([3, 23]))
  start = read(corpus, corpus.titles(2)[3])
  expected = f'{sid(corpus, 3)} {start} <separator> {sid(corpus, 23)} <separator> <eos>'
  assert read(corpus, tokens) == expected
  assert learnt.tolist() == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 2


@pytest.mark.parametrize(
  ('component', 'is_encoder_decoder'),
  [
    (dataclasses.replace(BARE, learn='both'), False),
    (CollaborativeNeighbours(k=3, learn='title'), True),
    (Mim(max_items=5, mask_share=0.4, learn='both'), False),
  ],
)
def test_a_row_shorter_than_the_longest_answer_is_refused_with_its_length(
  rated, component, is_encoder_decoder
):
  corpus = Corpus(rated[1], is_encoder_decoder)
  bound = component.longest_answer(corpus)
  units = range(component.num_units(corpus))
  got = [len(example(component, corpus, n, n).targets) for n in units]
  # The bound of masked items supposes that all have the longest title.
  assert max(got) <= bound <= max(got) + (9 if component.task == 'mim' else 0)
  assert dataclasses.replace(component, learn='sid').longest_answer(corpus) == 0
  mix = build({'one': component}, Mixing(), corpus, 0)
  sample = (mix[n] for n in range(200))
  mix.__dict__['survey'] = [[pair for pair in sample if len(pair[1].targets) < max(got)]]
  field = 'decoder_row_length' if is_encoder_decoder else 'row_length'
  packing = Packing(row_length=400, decoder_row_length=400, rows=4)
  short = dataclasses.replace(packing, **{field: max(got) - 1})
  with pytest.raises(
    ValueError,
    match=rf'a row must hold the longest answer of mixture.one.*packing.{field}=\d+. Set',
  ):
    make_stream(mix, short, 8)
  make_stream(mix, packing, 8)


@pytest.mark.parametrize('fields', [{'gaps': True, 'events': True}, {'crop': 0.5, 'max_items': 4}])
def test_the_longest_answer_includes_notes_and_augmented_windows(decoder_corpus, fields):
  component = dataclasses.replace(BARE, learn='both', **fields)
  units = range(component.num_units(decoder_corpus))
  longest = max(len(example(component, decoder_corpus, n, n).targets) for n in units)
  assert longest <= component.longest_answer(decoder_corpus)


def test_answers_of_sids_keep_the_identity_of_earlier_versions(decoder_corpus):
  for component in (BARE, Mim(), CollaborativeNeighbours()):
    assert 'learn' not in component.identity(decoder_corpus)
    learnt = dataclasses.replace(component, learn='both')
    assert learnt.identity(decoder_corpus)['learn'] == 'both'
  with pytest.raises(ValueError, match='learn must be one of sid, title, both; got'):
    NextItem(learn='name')
