"""Checkpoints: retention, and the detection of damage."""

import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.workdir import checkpoint_folder
from recjax.workdir.checkpoints import Checkpoints, Meta, read_run
from tests.folders import ROOT

META = Meta(10, {'part': 'x'}, 'c', [], {})


def state(step):
  params = {'a': jnp.full((64,), step, jnp.float32), 'b': {'c': jnp.arange(12.0).reshape(3, 4)}}
  opt_state = (jnp.full((64,), -step, jnp.float32),)
  return {'params': params, 'train': {'step': jnp.int32(step), 'opt_state': opt_state}}


def save(workdir, scores, max_to_keep=2):
  """Saves steps 1, 2, … with these scores."""
  with Checkpoints(workdir, max_to_keep) as checkpoints:
    for step, score in enumerate(scores, start=1):
      checkpoints.save(step, state(step), dataclasses.replace(META, examples_seen=10 * step), score)
      checkpoints.wait()


def steps_on_disk(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.is_dir())


def latest(workdir):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.latest_step()


def files_of(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def damage(path, generator):
  """Flips one bit of a file, truncates or deletes it, at random."""
  content = bytearray(path.read_bytes())
  kind = generator.choice(('flip', 'truncate', 'delete'))
  if kind == 'flip' and content:
    bit = generator.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
  elif kind == 'truncate' and content:
    path.write_bytes(content[: generator.randrange(len(content))])
  else:
    path.unlink()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Steps 2 to 4 on the disk; the best is 2."""
  workdir = tmp_path_factory.mktemp('saved')
  save(workdir, [0.1, 0.9, 0.2, None])
  return workdir


def test_a_saved_state_is_restored(saved):
  with Checkpoints(saved, read_only=True) as checkpoints:
    assert checkpoints.meta(4) == dataclasses.replace(META, examples_seen=40)
    target = jax.eval_shape(lambda: state(0))
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(4, target), state(4))
    params = checkpoints.restore_params(2, target['params'])
    jax.tree.map(np.testing.assert_array_equal, params, state(2)['params'])


def test_the_newest_and_the_best_are_kept(saved, tmp_path):
  assert steps_on_disk(saved) == [2, 3, 4]
  with Checkpoints(saved, read_only=True) as checkpoints:
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
  save(tmp_path / 'one', [0.3, 0.3, 0.1, 0.2], max_to_keep=1)
  assert steps_on_disk(tmp_path / 'one') == [2, 4]  # of two that are as good, the newer
  save(tmp_path / 'none', [None, None, None], max_to_keep=1)
  assert steps_on_disk(tmp_path / 'none') == [3]
  with Checkpoints(tmp_path / 'none', read_only=True) as checkpoints:
    assert checkpoints.best_step() == 3
  with Checkpoints(tmp_path / 'empty') as checkpoints:
    assert checkpoints.latest_step() is None
    assert checkpoints.best_step() is None


def test_a_hundred_random_damages_are_detected(saved, tmp_path, caplog):
  files = files_of(saved / 'checkpoints' / '4')
  names = {path.name for path in files}
  assert {'checksums.json', '_CHECKPOINT_METADATA', 'commit_success.txt', 'metadata'} <= names
  generator = random.Random(0)
  workdir = tmp_path / 'damaged'
  shutil.copytree(saved, workdir)
  for i in range(100):
    # Every file at least once, then any.
    path = files[i] if i < len(files) else generator.choice(files)
    path = workdir / path.relative_to(saved)
    content = path.read_bytes()
    damage(path, generator)
    caplog.clear()
    assert latest(workdir) == 3, path
    (record,) = caplog.records
    assert 'checkpoint 4 in ' in record.getMessage()
    assert f'{path.relative_to(workdir / "checkpoints" / "4")} ' in record.getMessage()
    path.write_bytes(content)
  assert latest(workdir) == 4


@pytest.mark.parametrize('name', ['2', '4', '4/train', '4/params/ocdbt.process_0'])
def test_a_missing_folder_is_detected(saved, tmp_path, caplog, name):
  shutil.copytree(saved, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/checkpoints' / name)
  with Checkpoints(tmp_path / 'w', read_only=True) as checkpoints:
    found = checkpoints.latest_step(), checkpoints.best_step()
  assert found == ((4, 3) if name == '2' else (3, 2))
  (record,) = caplog.records
  assert f'checkpoint {name[0]} in' in record.getMessage()
  assert 'missing' in record.getMessage()


def test_a_damaged_checkpoint_is_not_restored_and_the_next_best_is_used(saved, tmp_path, caplog):
  shutil.copytree(saved, tmp_path / 'w')
  path = tmp_path / 'w/checkpoints/2/meta/metadata'
  path.write_bytes(path.read_bytes().replace(b'20', b'21'))
  with Checkpoints(tmp_path / 'w', read_only=True) as checkpoints:
    with pytest.raises(ValueError, match=r'checkpoint 2 in .* is damaged: meta/metadata does not'):
      checkpoints.meta(2)
    assert checkpoints.best_step() == 3
  assert len(caplog.records) == 1
  (tmp_path / 'w/checkpoints/3/checksums.json').unlink()
  with Checkpoints(tmp_path / 'w', read_only=True) as checkpoints:
    assert checkpoints.best_step() == 4
    assert checkpoints.latest_step() == 4


def test_each_query_checks_the_checkpoint_again(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'w')
  with Checkpoints(tmp_path / 'w', read_only=True) as checkpoints:
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
    for step in (2, 4):
      (tmp_path / f'w/checkpoints/{step}/train/_METADATA').unlink()
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 3)


def test_a_run_stops_if_every_checkpoint_is_damaged(saved, tmp_path):
  for path in ('checksums.json', 'params/_METADATA'):
    workdir = tmp_path / pathlib.Path(path).name
    shutil.copytree(saved, workdir)
    for step in (2, 3, 4):
      (workdir / 'checkpoints' / str(step) / path).unlink()
    with Checkpoints(workdir) as checkpoints:
      message = (
        rf'must hold an undamaged checkpoint.*2: {path} is missing.*4: .*give a new --workdir'
      )
      with pytest.raises(ValueError, match=message):
        checkpoints.latest_step()
    assert steps_on_disk(workdir) == [2, 3, 4]  # the user may repair them


def test_an_interrupted_save_is_no_checkpoint(saved, tmp_path, caplog):
  workdir = tmp_path / 'w'
  shutil.copytree(saved, workdir)
  folder = workdir / 'checkpoints'
  shutil.copytree(folder / '4', folder / '5')  # a kill came before its checksums
  (folder / '5/checksums.json').unlink()
  (folder / '6.orbax-checkpoint-tmp/params').mkdir(parents=True)  # one before Orbax was done
  assert latest(workdir) == 4
  assert not caplog.text  # for a reader, the save may be running
  assert (folder / '6.orbax-checkpoint-tmp').exists()  # reading changes nothing
  with Checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.latest_step() == 4
    assert 'checkpoint 5 in' in caplog.text
    assert 'its save was interrupted' in caplog.text
    assert not (folder / '6.orbax-checkpoint-tmp').exists()
    checkpoints.save(5, state(5), META, None)
  assert latest(workdir) == 5
  assert steps_on_disk(workdir) == [2, 4, 5]
  # The first save of a run was interrupted, so there is nothing to resume.
  first = tmp_path / 'first/checkpoints'
  shutil.copytree(folder / '4', first / '4')
  (first / '4/checksums.json').unlink()
  assert latest(tmp_path / 'first') is None


def test_readers_follow_a_run_that_is_training(tmp_path):
  """The run removes a checkpoint before it is read, and another one during the read."""
  save(tmp_path, [0.1], max_to_keep=1)
  read = []

  def choose(checkpoints):
    if not read:
      with Checkpoints(tmp_path, 1) as run:
        run.save(2, state(2), META, 0.2)  # 1 goes
    return checkpoints.best_step()

  def restore(checkpoints, step):
    read.append(step)
    if len(read) == 1:
      with Checkpoints(tmp_path, 1) as run:
        run.save(3, state(3), META, 0.3)  # 2 goes
    return checkpoints.restore_params(step, jax.eval_shape(lambda: state(0)['params']))

  params = read_run(tmp_path, choose, restore)
  assert read == [2, 3]
  assert float(params['a'][0]) == 3.0


def test_a_reader_reports_damage_and_not_removal(tmp_path):
  save(tmp_path, [0.1, 0.2])
  shutil.rmtree(tmp_path / 'checkpoints/2')
  assert read_run(tmp_path, Checkpoints.latest_step, lambda _, step: step) == 1
  shutil.rmtree(tmp_path / 'checkpoints/1')
  with pytest.raises(ValueError, match=r'every one is damaged \(1: the folder is missing; 2:'):
    read_run(tmp_path, Checkpoints.best_step, lambda _, step: step)


def test_a_score_can_be_added_after_the_save(tmp_path):
  save(tmp_path, [0.3, None])
  with Checkpoints(tmp_path, 2) as checkpoints:
    assert checkpoints.best_step() == 1
    checkpoints.score(2, 0.4)
  for file in ('index.json', None):  # also where the index is lost
    with Checkpoints(tmp_path, 2) as checkpoints:
      assert checkpoints.best_step() == 2
    if file:
      (tmp_path / 'checkpoints' / file).unlink()


def test_a_kill_between_the_checksums_and_the_index_loses_nothing(tmp_path, caplog):
  save(tmp_path, [0.5, 0.1])
  index = tmp_path / 'checkpoints' / checkpoint_folder.INDEX
  before = index.read_bytes()
  with Checkpoints(tmp_path, 2) as checkpoints:
    checkpoints.save(3, state(3), META, 0.7)
  for content in (before, b'[[1, 0.5]]', None):
    index.unlink()
    if content is not None:
      index.write_bytes(content)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
      assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 3)
  assert [record.getMessage().count('index.json') for record in caplog.records] == [1]


def test_a_damaged_checkpoint_is_replaced_and_the_number_stays_bounded(saved, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(saved, workdir)
  (workdir / 'checkpoints/4/params/_METADATA').write_text('{}')
  with Checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.latest_step() == 3
    checkpoints.save(4, state(14), META, None)
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpoints.restore(4, jax.eval_shape(lambda: state(0))),
      state(14),
    )
    (workdir / 'checkpoints/4/params/_METADATA').unlink()
  with Checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.latest_step() == 3
    checkpoints.save(5, state(5), META, 0.1)
  assert steps_on_disk(workdir) == [2, 3, 5]


def _tmpfs(folder, megabytes):
  """Returns a command prefix that mounts a small disk at a folder, or None without the permission to."""
  if shutil.which('unshare') is None:
    return None
  mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && exec "$@"'
  start = ['unshare', '--map-root-user', '--mount', 'sh', '-c', mount, os.fspath(folder)]
  return start if subprocess.run([*start, 'true'], check=False).returncode == 0 else None


def test_a_full_disk_ends_with_a_message_and_leaves_earlier_checkpoints(tmp_path):
  start, limit, reason = _tmpfs(tmp_path, megabytes=8), 0, 'No space left on device'
  if start is None:
    start, limit, reason = [], 8 << 20, 'File too large'  # as much as a file may hold, then
  command = [
    sys.executable,
    '-m',
    'tests.recjax.workdir.full_disk_program',
    f'{tmp_path}/w',
    str(limit),
  ]
  done = subprocess.run(
    [*start, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'Traceback' not in done.stderr
  message, whole = done.stdout.splitlines()
  assert message.startswith(
    f'message: checkpoint 2 could not be written in {tmp_path}/w/checkpoints: '
  )
  assert reason in message
  assert whole == 'whole: 3'
