"""Prompts of reinforcement learning: every training pair once an epoch, as the search would ask for it."""

import dataclasses

from etils import epath
import numpy as np
import pytest

from recjax.config import next_item_component
from recjax.data import prompt_stream
from recjax.data.corpus import Corpus
from recjax.schema.grpo import GRPO, Grpo, Rewards
from recjax.schema.optim import Stage
from recjax.schema.stream import Mixing
from recjax.sids.table import SidTable
from recjax.training.grpo import stage as stage_lib
from recjax.workdir import stages as stages_lib


def make_stream(config, dataset, batch_size=8, **changes):
  """Returns the stream of a stage of kind grpo, after a supervised one."""
  stages = {
    'first': Stage(num_train_steps=1, warmup_steps=0),
    'rl': Stage(
      kind=GRPO, num_train_steps=1, warmup_steps=0, batch_size=batch_size, grpo=Grpo(group=4)
    ),
  }
  config = dataclasses.replace(config, stages=stages, **changes)
  return stage_lib.make_stream(stages_lib.plan(config, epath.Path('run'))[1], dataset)


@pytest.mark.parametrize('is_encoder_decoder', [False, True])
def test_an_epoch_holds_every_training_pair_with_the_prompt_of_the_search(
  rated, is_encoder_decoder
):
  config, dataset = rated
  sids = SidTable(dataset.sids.codes_IL[:, :2], (4, 6), 'import', 'keep')
  dataset = dataclasses.replace(dataset, sids=sids)
  corpus = Corpus(dataset, is_encoder_decoder)
  component = dataclasses.replace(next_item_component(config), crop=0.5)
  mixture = prompt_stream.mixture({'next_item': component}, Mixing(), corpus, seed=1)
  stream = prompt_stream.make_stream(mixture, 512, 8, exclude_seen=True)
  codes_SL, of_item_I = prompt_stream.leaves(dataset)
  np.testing.assert_array_equal(codes_SL[of_item_I], dataset.sids.codes_IL)
  assert len(codes_SL) == dataset.num_items - 1  # two items share theirs
  expected = {}
  for u in range(dataset.num_users):
    items = np.asarray(dataset.train[u])
    for k in range(1, len(items)):
      prompt = component.inference_prompt(corpus, items[:k])
      # A shared semantic ID may be returned until both of its items are seen.
      seen = set(items[:k].tolist())
      excluded = {
        int(of_item_I[i]) for i in seen if set(np.flatnonzero(of_item_I == of_item_I[i])) <= seen
      }
      row = (*prompt.tolist(), -1, int(of_item_I[items[k]]), -1, *sorted(excluded))
      expected[row] = expected.get(row, 0) + 1
  found = {}
  for n in range(mixture.parts[0].units):
    arrays = stream.group(n)
    prompt = arrays['tokens'][0, : arrays['lengths'][0]]
    assert not arrays['tokens'][0, arrays['lengths'][0] :].any()
    excluded = sorted(set(arrays['excluded'][0].tolist()) - {-1})
    row = (*prompt.tolist(), -1, int(arrays['target'][0]), -1, *excluded)
    found[row] = found.get(row, 0) + 1
  assert found == expected


@pytest.mark.parametrize('is_encoder_decoder', [False, True])
def test_titles_and_other_histories_are_prompts_beside_those_of_the_search(
  rated, is_encoder_decoder
):
  config, dataset = rated
  corpus = Corpus(dataset, is_encoder_decoder)
  searched = dataclasses.replace(next_item_component(config), learn='both')  # shows titles too
  other = dataclasses.replace(searched, show='title', learn='sid', max_items=3, weight=0.5)
  titles = dataclasses.replace(config.mixture['title_to_sid'], title_tokens=4)
  components = {'next_item': searched, 'titles': titles, 'other': other}
  mixture = prompt_stream.mixture(components, Mixing(), corpus, seed=1)
  stream = prompt_stream.make_stream(mixture, 512, 8, exclude_seen=True)
  leaves_I, counts = prompt_stream.leaves(dataset)[1], {}
  for n in range(200):
    part, unit = mixture.parts[mixture.locate(n)[0]].name, mixture.locate(n)[2]
    arrays = stream.group(n)
    counts[part] = counts.get(part, 0) + 1
    if part == 'titles':
      item = corpus.titled_items[unit]
      places = {'title': dataset.titles[item][:4]}
      expected = corpus.prompter.fill(titles.wordings[0], places)[0]
      assert (arrays['excluded'] == -1).all()
    else:
      first, position, _ = corpus.positions[unit]
      item = dataset.train.values[position]
      history = dataset.train.values[first:position]
      expected = components[part].inference_prompt(corpus, history)
      seen = {*arrays['excluded'][0].tolist()} - {-1}
      assert seen <= {*leaves_I[history].tolist()} and (seen or len(history) == 1)
    np.testing.assert_array_equal(arrays['tokens'][0, : arrays['lengths'][0]], expected)
    assert arrays['target'] == [leaves_I[item]]
  assert counts == {'next_item': 80, 'titles': 80, 'other': 40}


def test_batches_do_not_depend_on_hosts_and_long_histories_lose_their_oldest_items(rated):
  config, dataset = rated
  stream = make_stream(config, dataset)
  whole = stream.host_batch(16, 0, 1)
  halves = [stream.host_batch(16, host, 2) for host in (0, 1)]
  for name, array in whole.items():
    np.testing.assert_array_equal(array, np.concatenate([half[name] for half in halves]))
  short = dataclasses.replace(config.packing, row_length=46)
  cut = make_stream(config, dataset, packing=short).host_batch(16, 0, 1)
  assert cut['tokens'].shape[1] < whole['tokens'].shape[1]
  np.testing.assert_array_equal(cut['target'], whole['target'])
  dropped = whole['lengths'] - cut['lengths']
  np.testing.assert_array_equal(cut['dropped'], dropped)
  assert dropped.any()
  L = dataset.vocabulary.space.num_levels
  for n in np.flatnonzero(dropped):
    assert dropped[n] % L == 0
    for arrays in (cut, whole):  # the latest item stays
      arrays['last'] = arrays['tokens'][n, arrays['lengths'][n] - L : arrays['lengths'][n]]
    np.testing.assert_array_equal(cut['last'], whole['last'])
  with pytest.raises(ValueError, match=r'packing.row_length must hold a prompt without'):
    make_stream(config, dataset, packing=dataclasses.replace(config.packing, row_length=9))


def test_a_group_larger_than_the_catalogue_is_refused(rated):
  config, dataset = rated
  stages = {
    'first': Stage(num_train_steps=1, warmup_steps=0),
    'rl': Stage(
      kind=GRPO,
      num_train_steps=1,
      warmup_steps=0,
      grpo=Grpo(group=25, samples='sampled', rewards=Rewards(prefix_depth=1.0)),
    ),
  }
  planned = stages_lib.plan(dataclasses.replace(config, stages=stages), epath.Path('run'))[1]
  with pytest.raises(
    ValueError, match=r'stages.rl.grpo.group must be at most the 24 semantic IDs .* got 25'
  ):
    stage_lib.make_stream(planned, dataset)
