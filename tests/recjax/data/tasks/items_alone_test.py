"""Examples for models of items alone: the text forms without their words, and the loss of their packed rows."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import models, train
from recjax.data import mixture, packing
from recjax.data.corpus import Corpus
from recjax.data.tasks import TASKS
from recjax.schema.optim import Loss
from recjax.schema.stream import Mixing
from recjax.training import item_head, loss
from recjax.training.data_preflight import check_stream
from tests.recjax.data.tasks.reading import example, read

MARKERS = {
  'mim': '<sentinel_0>',
  'bpr': '<sentinel_1>',
  'collaborative_neighbours': '<sentinel_2>',
  'semantic_neighbours': '<sentinel_3>',
  'ranking': '<sentinel_4>',
}
FIELDS = {'ranking': {'candidates': 4}, 'mim': {'max_items': 8, 'mask_share': 0.4}}
COMPONENTS = {
  task: TASKS[task](
    prompts=(''.join(f'{{{place}}}' for place in TASKS[task].places),), **FIELDS.get(task, {})
  )
  for task in ('next_item', *MARKERS)
}


@pytest.fixture(scope='module')
def corpus(rated):
  return Corpus(rated[1], is_encoder_decoder=False, items_alone=True)


@pytest.mark.parametrize('task', MARKERS)
def test_examples_are_those_of_the_text_forms_without_words(corpus, decoder_corpus, task):
  component = dataclasses.replace(COMPONENTS[task], prompts=())
  alone = COMPONENTS[task]
  space = corpus.dataset.vocabulary.space
  mask = corpus.dataset.vocabulary.special_id('<mask>')
  for unit in range(component.num_units(corpus)):
    text, got = (
      example(component, decoder_corpus, unit, unit),
      example(alone, corpus, unit, unit),
    )
    words = read(corpus, text.inputs[(text.inputs >= space.sid_start) | (text.inputs == mask)])
    expected = f'{MARKERS[task]} {words.replace("<mask>", "<mask> <mask> <mask>")}'
    assert read(corpus, got.inputs) == expected
    np.testing.assert_array_equal(got.targets, text.targets)
    assert got.learnt is None and got.history == text.history
    # Items that packing may remove are those before the first mask, after the marker.
    end = got.history_start + sum(got.history)
    assert got.history_start == bool(end) and mask not in got.inputs[:end]


@pytest.mark.parametrize(
  ('component', 'way'),
  [
    (TASKS['title_to_sid'](), '--config.mixture.x.weight=0'),
    (
      TASKS['bpr'](),
      r"""--config.mixture.x.prompts="\('{history}{candidates}',\)", .* or --config.mixture.x.weight=0""",
    ),
    (TASKS['next_item'](prompts=('{history}',), gaps=True), '.*no titles, gaps and events'),
    (dataclasses.replace(COMPONENTS['mim'], learn='both'), '.*no titles, gaps and events'),
  ],
)
def test_components_with_words_are_refused_by_name(corpus, component, way):
  with pytest.raises(
    ValueError,
    match=rf'mixture.x \(task {component.task}\) shows other tokens. Set {way}',
  ):
    mixture.build({'next_item': COMPONENTS['next_item'], 'x': component}, Mixing(), corpus, 0)


def test_every_unit_comes_once_an_epoch(corpus):
  parts = mixture.build(COMPONENTS, Mixing(by='size'), corpus, seed=5)
  units = {part.name: part.units for part in parts.parts}
  drawn = {name: [] for name in units}
  for n in range(3 * sum(units.values())):
    p, _, unit = parts.locate(n)
    drawn[parts.parts[p].name].append(unit)
  for name, size in units.items():
    assert sorted(drawn[name][:size]) == list(range(size))


def test_the_loss_of_packed_rows_is_that_of_single_examples_with_a_head_on_every_learnt_item(rated):
  config, dataset = rated
  model = dataclasses.replace(
    *(config.model,), family='item_decoder', item_rows=True, item_head=True, depth=1, width=16,
    ff_width=32, heads=2, kv_heads=1, head_width=8,
  )  # fmt: skip
  sizes = dataclasses.replace(config.packing, row_length=48, rows=16)
  config = dataclasses.replace(config, model=model, packing=sizes, mixture=COMPONENTS)
  stream = train.make_stream(config, dataset)
  check_stream(stream, 1000, COMPONENTS['next_item'])
  mix, plan = stream.mixture, stream.plan
  group = [mix[n] for n in range(plan.examples)]
  assert {part.name for part, _ in group} == set(COMPONENTS)
  examples, _, _ = packing.fit([example for _, example in group], plan)
  one = dataclasses.replace(plan, examples=1, rows=1)
  alone = [
    packing.pack([(part, each)], one) for (part, _), each in zip(group, examples, strict=True)
  ]
  apart = {name: np.concatenate([rows[name] for rows in alone]) for name in alone[0]}
  graph, params = nnx.split(models.build(config.model, dataset.vocabulary.space, 0))

  @jax.jit
  def sums(params, batch):
    model = nnx.merge(graph, params)
    x_BTD, h_BTD = models.hidden(model, batch, None)
    codes = loss.loss_sums(model.tables, x_BTD, batch, 'level', mix.text_targets)
    return codes | item_head.item_head_sums(model.tables, h_BTD, batch, Loss())

  packed, expected = sums(params, packing.pack(group, plan)), sums(params, apart)
  for name in expected:
    np.testing.assert_allclose(packed[name], expected[name], rtol=1e-5, err_msg=name)
  levels = dataset.vocabulary.space.num_levels
  learnt = sum(each.num_learnt for each in examples) // levels
  assert packed['weight_item_head'] == packed['weight_level_1'] == learnt
  # The head's targets are the learnt items of each example, in order.
  tables = nnx.merge(graph, params).tables
  _, labels_BP, weights_BP = item_head.item_targets(tables, jax.tree.map(jnp.asarray, apart))
  index = {tokens.tobytes(): n for n, tokens in enumerate(mix.corpus.sid_tokens_IL)}
  for each, labels_P, weights_P in zip(
    examples, np.asarray(labels_BP), np.asarray(weights_BP), strict=True
  ):
    tokens = each.targets if each.learnt is None else each.targets[each.learnt]
    items = [index[tokens[n : n + levels].tobytes()] for n in range(0, len(tokens), levels)]
    assert labels_P[weights_P > 0].tolist() == items
