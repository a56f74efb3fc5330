"""Batches are a pure function of examples_seen for any number of hosts; the fingerprint of the stream."""

import dataclasses

import numpy as np
import pytest

from recjax import train
from recjax.data import loader, packing
from recjax.schema.stream import Loader


def stream(world, batch_size=32):
  config, dataset = world
  return train.make_stream(dataclasses.replace(config, batch_size=batch_size), dataset)


@pytest.mark.parametrize('hosts', [1, 2, 8])
def test_the_batches_of_all_hosts_make_the_global_batch(tiny_world, hosts):
  one = stream(tiny_world)
  for step in range(5):
    seen = step * one.examples_per_batch
    whole = one.host_batch(seen, 0, 1)
    parts = [one.host_batch(seen, host, hosts) for host in range(hosts)]
    for name in whole:
      np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def test_a_restart_continues_the_stream_even_with_another_batch_size(tiny_world):
  small, large = stream(tiny_world, 8), stream(tiny_world, 32)
  rows = [small.host_batch(k * small.examples_per_batch, 0, 1) for k in range(8)]
  got = list(large.batches(0, 2, 0, 1, Loader(threads=2, buffer=2)))
  for name in ('tokens', 'targets', 'segments', 'positions', 'weights'):
    expected = np.concatenate([row[name] for row in rows])
    np.testing.assert_array_equal(expected, np.concatenate([batch[name] for batch in got]))
  resumed = next(large.batches(large.examples_per_batch, 1, 0, 1, Loader()))
  np.testing.assert_array_equal(resumed['tokens'], got[1]['tokens'])


def test_a_host_assembles_only_its_own_part(tiny_world, monkeypatch):
  one = stream(tiny_world)
  calls = []
  kind = type(one.mixture.parts[0].component)
  example = kind.example

  def counted(self, corpus, unit, draw):
    calls.append(draw.index)
    return example(self, corpus, unit, draw)

  monkeypatch.setattr(kind, 'example', counted)
  one.host_batch(0, 3, 8)
  assert calls == list(range(3 * one.plan.examples, 4 * one.plan.examples))


def test_a_batch_that_hosts_cannot_divide_into_groups_is_refused():
  loader.check_batch(32, rows=4, hosts=4, parts=16)
  with pytest.raises(
    ValueError, match=r'packing.rows x hosts \(4 x 3\).*got 32. Set --config.batch'
  ):
    loader.check_batch(32, rows=4, hosts=3)
  with pytest.raises(ValueError, match=r'shards x grad_accumulation \(24\).*got 32. Set --config'):
    loader.check_batch(32, rows=4, hosts=4, parts=24)


def test_a_changed_input_changes_its_part_of_the_fingerprint(tiny_world):
  config, dataset = tiny_world

  def fingerprint(other, plan=packing.Plan(20, 4, 32)):  # noqa: B008
    return loader.fingerprint(
      loader.Stream(train.make_mixture(other, dataset), plan, 1), other.mixing
    )

  before = fingerprint(config)
  assert before == fingerprint(config)

  def changed(other, *plan):
    after = fingerprint(other, *plan)
    return [part for part in before if before[part] != after[part]]

  next_item = config.mixture['next_item']

  def with_component(**fields):
    return dataclasses.replace(
      config, mixture={'next_item': dataclasses.replace(next_item, **fields)}
    )

  assert changed(with_component(max_items=9)) == ['mixture']
  assert changed(with_component(prompts=('Then: {history}',))) == ['mixture']
  assert changed(with_component(loss_weight=0.5)) == ['mixture']
  assert changed(dataclasses.replace(config, seed=1)) == ['seed']
  assert changed(config, packing.Plan(21, 4, 32)) == ['packing']
  assert changed(dataclasses.replace(config, batch_size=32, num_train_steps=9)) == []
