"""Titles: given answers, a model that knows some titles by heart, eight devices, and what is refused."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax import models
from recjax.data.corpus import Corpus
from recjax.data.sequences import Sequences
from recjax.decode.answers import Answerer, Answers
from recjax.metrics.evaluators import Title
from recjax.metrics.evaluators.title import Titles
from tests.recjax.metrics.evaluators.ranking_test import context_of


def titles_of(dataset):
  """The title of every item, from the raw catalogue; the preparation takes another text for a missing title."""
  return [item.get('title', item['text']) for item in dataset.items]


def answering(monkeypatch, vocabulary, texts, ended=None):
  """Makes the model give these answers, and returns the prompts that it was given."""
  asked = []

  def answer(self, params, prompts, progress=None):
    asked.extend(prompts)
    tokens = [vocabulary.encode(text) for text in texts]
    return Answers(Sequences.from_lists(tokens), np.array(ended or [True] * len(texts)))

  monkeypatch.setattr(Answerer, 'answer', answer)
  return asked


def test_answers_are_compared_with_the_titles_of_the_catalogue(rated, monkeypatch):
  context, dataset = context_of(rated), rated[1]
  rows = np.flatnonzero(dataset.targets('test') < 23)[:6]
  targets = dataset.targets('test')[rows]
  titles = titles_of(dataset)
  other = next(i for i in range(23) if i not in targets)
  own = [titles[target] for target in targets]
  texts = [own[0], titles[other], f'{own[2]} x', '', 'zzzz', f' {own[5]} ']
  asked = answering(monkeypatch, dataset.vocabulary, texts, [True] * 4 + [False, True])
  found = Title().evaluate(context, 'test', rows)
  histories, _ = dataset.histories_and_targets('test')
  component = context.components['history_to_title']
  for prompt, row in zip(asked, rows, strict=True):
    expected = component.inference_prompt(context.corpus, histories[row])
    np.testing.assert_array_equal(prompt, expected)
  metrics, ranked = found.metrics, found.ranked
  assert metrics['exact'] == pytest.approx(2 / 6)
  assert metrics['names_item'] == pytest.approx(3 / 6)
  assert metrics['nearest'] == metrics['recall@1'] == pytest.approx(3 / 6)
  assert metrics['empty'] == metrics['cut'] == pytest.approx(1 / 6)
  assert metrics['exact_stderr'] == pytest.approx(np.std([1, 1, 0, 0, 0, 0], ddof=1) / np.sqrt(6))
  assert [ranked.ranks_U[r] for r in (0, 2, 5)] == [0, 0, 0]
  assert ranked.items_UK[:3, 0].tolist() == [targets[0], other, targets[2]]
  assert (ranked.items_UK[3:5] == -1).all() and (ranked.ranks_U[3:5] >= 20).all()
  assert found.predictions['named'].tolist() == [targets[0], other, -1, -1, -1, targets[5]]
  assert found.predictions['answer'].tolist() == [text.strip() for text in texts]
  assert found.predictions['title'].tolist() == own
  assert found.predictions['is_cut'].tolist() == [False] * 4 + [True, False]
  assert set(Title().metrics(context.settings)) <= set(metrics)


def with_titles(dataset, titles):
  """The data set with other titles of its items."""
  tokens = [dataset.vocabulary.encode(title) for title in titles]
  other = dataclasses.replace(dataset)
  other.__dict__['titles'] = Sequences.from_lists(tokens)
  return other


def test_items_that_share_a_title_are_found_together_and_others_left_out(rated, monkeypatch):
  dataset = rated[1]
  targets = dataset.targets('test')
  titles = titles_of(dataset)
  a, b = (int(t) for t in np.unique(targets[targets < 23])[:2])
  gone = int(np.unique(targets)[3])
  titles[b], titles[gone] = titles[a], ''
  changed = with_titles(dataset, titles)
  context = dataclasses.replace(context_of(rated), dataset=changed, corpus=Corpus(changed, False))
  rows = np.flatnonzero(np.isin(targets, [a, b, gone]))
  kept = rows[targets[rows] != gone]
  answering(monkeypatch, dataset.vocabulary, [titles[a]] * len(kept))
  found = Title().evaluate(context, 'test', rows)
  assert found.rows.tolist() == kept.tolist()
  assert found.metrics['exact'] == found.metrics['recall@1'] == 1.0
  assert found.ranked.items_UK[:, 0].tolist() == targets[kept].tolist()
  assert found.metrics['items_sharing_a_title'] == 2
  assert found.metrics['rows_without_title'] == len(rows) - len(kept) > 0
  assert found.metrics['items_without_title'] == titles.count('')
  none = Title().evaluate(context, 'test', rows[targets[rows] == gone])
  assert none.metrics['rows'] == 0 and not len(none.rows)
  blank = Corpus(with_titles(dataset, [''] * 24), False)
  with pytest.raises(ValueError, match='title> needs rows whose target has a title in the valid'):
    Title().check_corpus(blank)


def test_an_answer_is_nearest_to_the_title_that_it_equals(rated):
  dataset = rated[1]
  titles = Titles(with_titles(dataset, ['oil soap', 'soap oil', 'Soap', 'soap', *[''] * 20]), 64)
  named, found, cosines = titles.find(['soap oil', 'soap', 'soap oil', 'oil'], 2)
  assert named.tolist() == [1, 3, 1, -1]
  assert found.tolist() == [[1, 0], [3, 2], [1, 0], [0, 1]]
  assert cosines[:3] == pytest.approx(1.0) and cosines[3, 0] < 1


def learn(context, items, steps=150):
  """Returns parameters that were trained to give the titles of some items after their semantic IDs."""
  corpus, component = context.corpus, context.components['sid_to_title']
  rows = [component.inference_prompt(corpus, i).tolist() for i in items]
  ends = [[*corpus.titles(64)[i].tolist(), *corpus.prompter.end.tolist()] for i in items]
  width = max(len(row) + len(end) for row, end in zip(rows, ends, strict=True))
  tokens, labels = np.zeros((len(items), width), np.int32), np.full((len(items), width), -1)
  for n, (row, end) in enumerate(zip(rows, ends, strict=True)):
    tokens[n, : len(row) + len(end)] = [*row, *end]
    labels[n, len(row) - 1 : len(row) + len(end) - 1] = end
  batch = {
    'tokens': jnp.asarray(tokens),
    'segments': jnp.ones_like(tokens),
    'positions': jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), tokens.shape),
  }
  labels = jnp.asarray(labels)
  graph = models.graph(context.model, context.dataset.vocabulary.space)

  def loss(params):
    model = nnx.merge(graph, params)
    logits = model.tables.text_logits(model.hidden(batch))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(jnp.where(labels >= 0, losses, 0.0)) / len(items)

  tx = optax.adam(1e-2)
  params = nnx.to_pure_dict(
    nnx.split(models.build(context.model, context.dataset.vocabulary.space, 0))[1]
  )

  @jax.jit
  def train(params):
    def step(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)[0][0]

  return train(params)


def test_a_model_names_the_items_that_it_learnt_by_heart(rated):
  dataset = rated[1]
  rows = np.arange(40)
  targets = dataset.targets('test')[rows]
  known = np.unique(targets[targets < 23])[::2]  # of two items that differ in one code, one
  evaluator = Title(component='sid_to_title')
  one, eight = (context_of(rated, sizes=sizes) for sizes in ((1, 1, 1), (2, 2, 2)))
  params = learn(one, known)
  found = evaluator.evaluate(one.with_params(params), 'test', rows)
  items = dataset.targets('test')[found.rows]
  titled = targets[targets < 23]
  assert sorted(items.tolist()) == np.unique(titled).tolist()  # each once
  assert found.metrics['rows_of_repeated_items'] == len(titled) - len(items)
  titles = titles_of(dataset)
  for item, answer, named in zip(
    items, found.predictions['answer'], found.predictions['named'], strict=True
  ):
    if item in known:
      assert answer == ' '.join(titles[item].split()) and named == item
  assert len(known) / len(items) <= found.metrics['exact'] < 1
  assert evaluator.evaluate(eight.with_params(params), 'test', rows).metrics == found.metrics
  only = Title(component='sid_to_title', constrained=True)
  chosen = only.evaluate(one.with_params(params), 'test', rows).metrics
  assert chosen['names_item'] == 1.0 and chosen['cut'] == 0.0
  assert chosen['exact'] >= len(known) / len(items)


def test_the_component_may_be_named(rated):
  components = rated[0].active_mixture
  Title().check(components)
  with pytest.raises(ValueError, match=r'with the task history_to_title or sid_to_title \(.*got'):
    Title(component='mim').check(components)
  rest = {'mim': components['mim']}
  with pytest.raises(ValueError, match=r'it has mim \(mim\)\. Set --config\.mixture\.history_to'):
    Title().check(rest)
