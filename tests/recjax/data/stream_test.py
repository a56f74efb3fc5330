"""The stream of all tasks: no leak, the same on any hosts and after any restart, and its shares."""

import collections
import dataclasses
import multiprocessing
import os
import signal

from absl import flags
import numpy as np
import pytest

from data_prep import prepare
from recjax import train
from recjax.data import loader, mixture
from recjax.data.dataset import Dataset
from recjax.schema.stream import Loader
from tests.recjax.data import rated_world


def make_stream(config, dataset, family='gemma'):
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, family=family))
  return train.make_stream(config, dataset)


@pytest.fixture(scope='module', params=['gemma', 't5'])
def stream(rated, request):
  return make_stream(*rated, request.param)


def test_counts_over_a_block_are_the_integer_proportions(stream):
  names = collections.Counter(part.name for part, _ in stream.mixture.survey[0])
  counts = dict(
    zip((p.name for p in stream.mixture.parts), stream.mixture.intervals[0].counts, strict=True)
  )
  assert names == counts
  assert sum(counts.values()) == 10_000


def test_each_unit_of_each_task_appears_once_an_epoch(stream):
  mix = stream.mixture
  shown = collections.defaultdict(list)
  for n in range(4000):
    p, _, unit = mix.locate(n)
    shown[p].append(unit)
  for p, part in enumerate(mix.parts):
    first = shown[p][: part.units]
    assert sorted(first) == list(range(part.units))


@pytest.mark.parametrize('hosts', [2, 8])
def test_batches_do_not_depend_on_hosts_and_restarts(stream, hosts):
  groups = [stream.group(g) for g in range(56)]
  for g in range(0, 50, hosts):  # a restart at every border of a group that a batch can begin at
    seen = g * stream.plan.examples
    whole = dataclasses.replace(stream, groups=hosts)
    parts = [whole.host_batch(seen, host, hosts) for host in range(hosts)]
    for name in groups[0]:
      expected = np.concatenate([groups[g + k][name] for k in range(hosts)])
      np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


def test_a_restart_at_every_group_border_continues(stream):
  one = dataclasses.replace(stream, groups=1)
  for g in range(50):
    first = next(one.batches(g * one.plan.examples, 1, 0, 1, Loader()))
    for name, expected in stream.group(g).items():
      np.testing.assert_array_equal(first[name], expected)


def test_worker_processes_give_the_same_batches(stream):
  flags.FLAGS.mark_as_parsed()  # as `app.run` has done in a run; grain asks for flags of its own
  alone = list(stream.batches(0, 9, 0, 1, Loader()))
  batches = stream.batches(0, 9, 0, 1, Loader(workers=2, buffer=1))
  for n, (expected, got) in enumerate(zip(alone, batches, strict=True)):
    if (
      n == 1
    ):  # both run. A launcher signals whole groups; what is to be saved needs further batches.
      readers = multiprocessing.active_children()
      assert len(readers) == 2
      for reader in readers:
        os.kill(reader.pid, signal.SIGTERM)
        os.kill(reader.pid, signal.SIGINT)
    for name in expected:
      np.testing.assert_array_equal(got[name], expected[name])


def test_a_host_computes_only_its_share_of_the_examples(stream, monkeypatch):
  calls = []
  locate = mixture.Mixture.locate
  monkeypatch.setattr(mixture.Mixture, 'locate', lambda self, n: calls.append(n) or locate(self, n))
  for hosts in (1, 2, 8):
    calls.clear()
    stream.host_batch(0, hosts - 1, hosts)
    assert len(calls) == stream.examples_per_batch // hosts


def test_no_task_sees_held_out_interactions(tmp_path):
  streams = []
  for seed in (0, 1):
    folder = tmp_path / str(seed)
    config, dataset = rated_world.prepared(folder, held_out_seed=seed)
    streams.append((make_stream(config, dataset), config, dataset))
  (one, config, dataset), (two, other_config, other) = streams
  assert (dataset.test_items != other.test_items).any()
  assert (dataset.validation_items != other.validation_items).any()
  assert loader.fingerprint(one, config.mixing) == loader.fingerprint(two, other_config.mixing)
  for n in range(2000):
    (part, example), (other_part, other_example) = one.mixture[n], two.mixture[n]
    assert part == other_part
    for a, b in zip(example[:3], other_example[:3], strict=True):
      np.testing.assert_array_equal(a, b)


def test_the_fingerprint_names_relations_and_keywords(rated, tmp_path):
  config, dataset = rated
  before = loader.fingerprint(make_stream(config, dataset), config.mixing)
  assert {'relations', 'keywords', 'texts', 'sequences'} <= set(before)
  raw = tmp_path / 'raw'
  rated_world.write_raw(raw, rated_world.rows())
  changed = rated_world.make_config(tmp_path)
  relations = dataclasses.replace(changed.relations, window=1)
  changed = dataclasses.replace(changed, relations=relations)
  prepare.prepare(changed)
  other = Dataset.load(changed.prepared_folder)
  after = loader.fingerprint(make_stream(changed, other), changed.mixing)
  assert [name for name in before if before[name] != after[name]] == ['relations']
