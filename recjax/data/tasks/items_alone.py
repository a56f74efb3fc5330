"""The check of tasks for models that read items alone (`recjax.models.family.Family.reads_items_alone`)."""

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.tasks.base import Component, Draw

SAMPLE = 32  # examples of a component that are looked at


def check_items_alone(name: str, component: Component, corpus: Corpus) -> None:
  """Checks that examples are whole semantic IDs, and masks as long as one, after one token.

  Args:
    name: the component's name in the mixture.
    component: the component; it has at least one unit.
    corpus: the data set.

  Raises:
    ValueError: an example has other tokens, such as words.
  """
  space, units = corpus.dataset.vocabulary.space, component.num_units(corpus)
  L = space.num_levels
  for n in range(SAMPLE):
    example = component.example(corpus, n % units, Draw(0, n))
    tokens = np.concatenate([example.inputs, example.targets])[1:]
    groups = tokens[: len(tokens) // L * L].reshape(-1, L)
    is_item = (space.level_of_token[groups] == np.arange(1, L + 1)).all(axis=1)
    if len(tokens) % L or not (is_item | (groups == corpus.mask).all(axis=1)).all():
      way = f'--config.mixture.{name}.weight=0'
      if component.marker or component.task == 'next_item':
        places = ''.join(f'{{{place}}}' for place in component.places)
        way = (
          f'--config.mixture.{name}.prompts="(\'{places}\',)", which has no words, and no titles, gaps and events, '
          f'or {way}'
        )
      raise ValueError(
        'with model.family=item_decoder a component must show whole semantic IDs and no words, after one token; '
        f'mixture.{name} (task {component.task}) shows other tokens. Set {way}'
      )
