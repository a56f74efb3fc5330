"""Masked items and spans: inputs and targets together give the original sequence."""

import re

import numpy as np
import pytest

from recjax.data.corpus import Corpus
from recjax.data.tasks import Mim, Mlm
from recjax.data.tasks.masked import MASKED
from tests.recjax.data.tasks.reading import example, read, sid


def test_targets_are_the_masked_items_in_order(decoder_corpus):
  corpus = decoder_corpus
  component = Mim(max_items=8, mask_share=0.4)
  for unit in range(component.num_units(corpus)):
    start, size, _ = corpus.windows(8)[unit]
    items = corpus.train.values[start : start + size]
    got = example(component, corpus, unit, unit)
    inputs, targets = read(corpus, got.inputs), read(corpus, got.targets)
    hidden = re.findall(r'<a_\d+> <b_\d+> <c_\d+>', targets)
    assert len(hidden) == inputs.count('<mask>') == max(round(0.4 * size), 1)
    whole = inputs
    for text in hidden:
      whole = whole.replace('<mask>', text, 1)
    assert sid(corpus, *items) in whole
    # Packing may remove only items before the first mask.
    end = got.history_start + sum(got.history)
    mask = corpus.dataset.vocabulary.special_id('<mask>')
    assert mask not in got.inputs[:end]
    assert len(got.history) < size


@pytest.mark.parametrize('show', ['sid', 'title', 'both'])
def test_the_inference_prompt_masks_one_item(decoder_corpus, encoder_decoder_corpus, show):
  component = Mim(max_items=4, mask_share=0.1, show=show)  # one item of every window
  for corpus in (decoder_corpus, encoder_decoder_corpus):
    ends = 0
    for unit in range(0, component.num_units(corpus), 3):
      start, size, _ = corpus.windows(4)[unit]
      items = corpus.train.values[start : start + size]
      got = example(component, corpus, unit, 3 * unit)  # the first wording
      place = len(got.history)
      shown = np.concatenate([items[:place], [MASKED], items[place + 1 :]])
      np.testing.assert_array_equal(component.inference_prompt(corpus, shown), got.inputs)
      if size == 4:
        longer = np.append(corpus.train.values[:9], shown)
        np.testing.assert_array_equal(component.inference_prompt(corpus, longer), got.inputs)
      assert len(got.inputs) <= component.max_prompt_length(corpus)
      ends += place == size - 1
    assert ends > 3
  for items in (np.arange(9), np.append(MASKED, np.arange(4)), np.array([MASKED, MASKED])):
    with pytest.raises(
      ValueError, match=r'one of the last 4 items must be masked; got [02] masked'
    ):
      component.inference_prompt(decoder_corpus, items)


@pytest.mark.parametrize('show', ['title', 'both'])
@pytest.mark.parametrize('form', ['own', 'own of an encoder–decoder', 't5', 't5 of a decoder'])
def test_targets_are_the_sentinels_with_their_hidden_spans(
  decoder_corpus, encoder_decoder_corpus, show, form
):
  corpus = encoder_decoder_corpus if form in ('t5', 'own of an encoder–decoder') else decoder_corpus
  component = Mlm(
    max_items=8, corruption_rate=0.3, span_length=2.0, show=show, sentinels=form.split(' of ')[0]
  )
  tokens = corpus.t5_sentinels if form == 't5' else corpus.sentinels
  sentinels = {int(t): n for n, t in enumerate(tokens)}
  shares, spans, has_sid, last = [], [], 0, form == 't5'
  for unit in range(component.num_units(corpus)):
    start, size, _ = corpus.windows(8)[unit]
    text, _ = corpus.items(corpus.train.values[start : start + size], show, 16)
    got = example(component, corpus, unit, unit)
    hidden, current = {}, None
    assert got.learnt is None and got.targets[-1] == corpus.dataset.vocabulary.eos_id
    for token in got.targets[:-1].tolist():
      if token in sentinels:
        current = hidden.setdefault(sentinels[token], [])
      else:
        current.append(token)
    assert list(hidden) == list(range(len(hidden)))
    assert not last or hidden.pop(len(hidden) - 1) == []  # T5's last sentinel
    assert all(hidden.values())
    whole = []
    for token in got.inputs[: len(got.inputs) - corpus.is_encoder_decoder].tolist():
      whole += hidden[sentinels[token]] if token in sentinels else [token]
    assert whole[-len(text) :] == text.tolist()
    # Sentinels never touch: something is left between two spans.
    at = np.flatnonzero([t in sentinels for t in got.inputs.tolist()])
    assert (np.diff(at) > 1).all()
    shares.append(sum(map(len, hidden.values())) / len(text))
    spans += map(len, hidden.values())
    has_sid += (got.targets >= corpus.dataset.vocabulary.space.sid_start).any()
  assert np.mean(shares) == pytest.approx(0.3, abs=0.02 if show == 'title' or not last else 0.04)
  assert np.mean(spans) == pytest.approx(2.0, abs=0.3)
  assert (has_sid > 0) == (show == 'both')


def test_an_encoder_decoder_uses_the_sentinels_of_its_tokenizer(rated):
  corpus = Corpus(rated[1], is_encoder_decoder=True)
  np.testing.assert_array_equal(corpus.t5_sentinels, corpus.sentinels)  # this tokenizer has none
  corpus.t5_sentinels = np.arange(32_099, 32_067, -1, dtype=np.int32)  # those of T5
  got = example(Mlm(sentinels='t5'), corpus, 0)
  used = got.targets[got.targets > 32_000].tolist()
  assert used == list(range(32_099, 32_099 - len(used), -1)) and got.targets[-2] == used[-1]
  assert not np.isin(got.targets, corpus.sentinels).any()


def test_masked_spans_keep_the_identity_of_earlier_versions(decoder_corpus):
  assert 'sentinels' not in Mlm().identity(decoder_corpus)
  assert Mlm(sentinels='t5').identity(decoder_corpus)['sentinels'] == 't5'


def test_every_length_can_be_corrupted():
  component = Mlm(corruption_rate=0.5, span_length=1.0)
  rng = np.random.default_rng(0)
  for length in [*range(2, 40), 500]:
    starts, lengths = component._spans(length, rng)
    assert 1 <= len(starts) <= 32
    assert lengths.min() >= 1
    assert starts[0] >= 0
    assert starts[-1] + lengths[-1] < length
    assert (starts[1:] > starts[:-1] + lengths[:-1]).all()


def test_the_example_depends_only_on_unit_and_draw(decoder_corpus):
  component = Mim()
  one, again = (example(component, decoder_corpus, 3, 5) for _ in range(2))
  np.testing.assert_array_equal(one.inputs, again.inputs)
  others = {tuple(example(component, decoder_corpus, 3, 3 * k).inputs.tolist()) for k in range(20)}
  assert len(others) > 3


def test_fields_are_checked():
  with pytest.raises(ValueError, match=r'mask_share must be in \(0, 1\); got 1'):
    Mim(mask_share=1.0)
  with pytest.raises(ValueError, match=r'span_length must be at least 1; got 0\.5'):
    Mlm(span_length=0.5)
  with pytest.raises(ValueError, match="show must be one of title, both; got 'sid'"):
    Mlm(show='sid')
