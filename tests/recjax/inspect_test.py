"""`python -m recjax.inspect` prints and writes the examples and batches that a run trains on."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from recjax import inspect
from recjax.schema.optim import Stage
from tests.folders import ROOT
from tests.recjax.data import rated_world


@pytest.fixture(scope='module')
def stream(rated):
  return inspect.make_stream(rated[0])


def test_examples_are_shown_with_their_row_and_segment(stream):
  texts = list(inspect.describe(stream, 0, 12))
  assert len(texts) == 12
  vocabulary = stream.mixture.corpus.dataset.vocabulary
  for n, text in enumerate(texts):
    head, inputs, targets, ids = text.splitlines()
    words = head.replace(',', '').split()
    group, row, segment = (
      int(words[words.index(name) + 1]) for name in ('group', 'row', 'segment')
    )
    part, example = stream.mixture[n]
    assert words[2:4] == [str(n), part.name]
    assert targets.removeprefix('targets').strip() == vocabulary.decode(example.targets)
    read, learnt = ids.removeprefix('ids').split('->')
    arrays = stream.group(group)
    here = arrays['segments'][row] == segment
    whole = [*map(int, read.split()), *(int(t.strip('[]')) for t in learnt.split())]
    assert arrays['tokens'][row, here].tolist() == whole[:-1]
    marked = [t.startswith('[') for t in learnt.split()]
    assert (arrays['weights'][row, here] > 0).tolist()[-len(marked) :] == marked
    assert inputs.startswith('inputs')


def test_task_selects_a_component_and_unknown_ones_are_refused(stream):
  texts = list(inspect.describe(stream, 40, 3, 'mim'))
  assert all('  mim  ' in text and '<mask>' in text for text in texts)
  with pytest.raises(ValueError, match=r"--task must be drawn from .*; got 'nothing'"):
    next(inspect.describe(stream, 0, 1, 'nothing'))


def test_written_arrays_equal_those_of_the_stream(stream):
  W = stream.examples_per_batch
  got = inspect.batches(stream, 2 * W, 3, host=1, hosts=4)
  for step in range(3):
    expected = stream.host_batch((2 + step) * W, 1, 4)
    for name, array in expected.items():
      np.testing.assert_array_equal(got[name][step], array)
  with pytest.raises(ValueError, match=r'must be a multiple of a batch'):
    inspect.batches(stream, W + 1, 1, 0, 1)
  with pytest.raises(ValueError, match=r'--host must be in \[0, --hosts=2\); got 2'):
    inspect.batches(stream, 0, 1, 2, 2)
  with pytest.raises(ValueError, match=r'packing.rows x hosts'):
    inspect.batches(stream, 0, 1, 0, 3)


def test_two_real_processes_write_the_halves_of_one_stream(tmp_path):
  config, _ = rated_world.prepared(tmp_path)
  (tmp_path / 'config.py').write_text(
    'import pathlib\nfrom tests.recjax.data import rated_world\n\n\n'
    f'def get_config():\n  return rated_world.config_dict(pathlib.Path({str(tmp_path)!r}))\n'
  )
  stream = inspect.make_stream(config)
  seen = 5 * stream.examples_per_batch
  command = [sys.executable, '-m', 'recjax.inspect', f'--config={tmp_path}/config.py']
  command += ['--batches=4', f'--examples_seen={seen}', '--hosts=2']
  processes = [
    subprocess.Popen([*command, f'--host={host}', f'--out={tmp_path}/{host}.npz'], cwd=ROOT)
    for host in range(2)
  ]
  assert [process.wait(120) for process in processes] == [0, 0]
  whole = inspect.batches(stream, seen, 4, 0, 1)
  with np.load(tmp_path / '0.npz') as first, np.load(tmp_path / '1.npz') as second:
    for name, array in whole.items():
      np.testing.assert_array_equal(np.concatenate([first[name], second[name]], axis=1), array)


@pytest.mark.parametrize('program', ['recjax.inspect', 'launch.compile'])
def test_an_unknown_field_is_one_line(program):
  command = [sys.executable, '-m', program, '--config=configs/demo.py', '--config.model.widht=3']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 1
  assert done.stderr.startswith('unknown config field model.widht; did you mean model.width')
  assert done.stderr.count('\n') == 1


def test_unprepared_data_are_named(tmp_path):
  config = rated_world.make_config(tmp_path)
  with pytest.raises(
    ValueError,
    match=r'must hold data that were prepared with this config; run python -m recjax.main with this config and --mode=prepare',
  ):
    inspect.make_stream(config)


def test_a_run_of_stages_shows_the_stage_asked_for(rated):
  config, _ = rated
  stages = {
    'titles': Stage(num_train_steps=10, warmup_steps=0, mixture=('title_to_sid', 'sid_to_title')),
    'items': Stage(num_train_steps=10, warmup_steps=0, mixture=('next_item',)),
  }
  staged = dataclasses.replace(config, stages=stages)

  def parts(*stage):
    stream = inspect.make_stream(staged, *stage)
    return [part.name for part in stream.mixture.parts]

  assert parts() == parts('titles') == ['title_to_sid', 'sid_to_title']
  assert parts('items') == ['next_item']
  with pytest.raises(ValueError, match=r"--stage must be titles, items; got 'last'"):
    inspect.planned(staged, 'last')
  with pytest.raises(ValueError, match=r'--stage must be left out'):
    inspect.planned(config, 'titles')
