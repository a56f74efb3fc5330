"""Examples as words, for oracles that do not know how they were made."""

from recjax.data.tasks.base import Draw


def example(component, corpus, unit, index=0):
  return component.example(corpus, unit, Draw(7, index))


def read(corpus, ids):
  """The text of ids, with single spaces."""
  return ' '.join(corpus.dataset.vocabulary.decode(ids).split())


def sid(corpus, *items):
  """The semantic IDs of items as text."""
  codes = corpus.dataset.sids.codes_IL
  return ' '.join(f'<{"abc"[level]}_{code}>' for i in items for level, code in enumerate(codes[i]))


def sequence(corpus, user):
  return corpus.train[user].tolist()


def pairs(corpus):
  """(user, position) of every unit of a task of pairs, in order."""
  lengths = corpus.train.lengths
  return [(u, p) for u in range(len(lengths)) for p in range(1, lengths[u])]
