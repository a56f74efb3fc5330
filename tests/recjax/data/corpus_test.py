"""Items as tokens, compared with a loop; every array over the catalogue is computed once."""

import numpy as np
import pytest

from recjax.data.corpus import Corpus

SETTINGS = [('title', n) for n in range(1, 10)] + [('both', n) for n in range(1, 10)] + [('sid', 1)]


@pytest.mark.parametrize('show', ['sid', 'title', 'both'])
def test_shown_items_are_the_tokens_of_sid_title_and_separator(decoder_corpus, show):
  corpus, dataset = decoder_corpus, decoder_corpus.dataset
  items = np.array([5, 23, 0])
  tokens, lengths = corpus.items(items, show, 3)
  expected = []
  for item in items:
    sid = corpus.sid_tokens_IL[item].tolist()
    title = [*dataset.titles[item][:3].tolist(), dataset.vocabulary.special_id('<separator>')]
    expected.append({'sid': sid, 'title': title, 'both': sid + title}[show])
  assert tokens.tolist() == [token for row in expected for token in row]
  assert lengths == tuple(map(len, expected))


def test_each_array_is_computed_once_for_many_settings_in_rotation(rated, monkeypatch):
  computed = []
  for name in ('_shown', '_titles', '_windows'):
    original = getattr(Corpus, name)

    def counted(self, *setting, name=name, original=original):
      computed.append((name, *setting))
      return original(self, *setting)

    monkeypatch.setattr(Corpus, name, counted)
  corpus = Corpus(rated[1], is_encoder_decoder=False)
  for _ in range(3):
    for show, tokens in SETTINGS:
      corpus.items(np.array([1, 2]), show, tokens)
      corpus.shown(show, tokens)
      corpus.windows(tokens + 1)
  assert len(computed) == len(set(computed))
  assert len(computed) == len(SETTINGS) + 9 + 9
