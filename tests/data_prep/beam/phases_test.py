"""The preparation by pipelines of Beam: the bytes of the local engine, kills, workers that differ, damaged parts."""

import dataclasses
import pathlib

from etils import epath
import pytest

pytest.importorskip('apache_beam', reason='needs Apache Beam: make beam, then make beamtest')

from data_prep import engine, sources
from data_prep import stage as stage_lib
from data_prep.beam import job as job_lib
from data_prep.beam import phases as phases_lib
from data_prep.beam import ranges, reading, tasks
from data_prep.beam.parts import Work
from tests.data_prep.beam import world

FIELDS = {
  'duplicates': 'drop',
  'unknown_items': 'drop',
  'split': 'global_time',
  'context_events': ('view',),
  'max_history': 5,
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(ranges, '_SMALL', 150)
  monkeypatch.setattr(reading, 'BLOCK_ROWS', 200)


@pytest.fixture
def raw(tmp_path):
  world.write(tmp_path / 'raw', world.table())
  return tmp_path / 'raw'


def prepare(raw, out, kind='beam', **fields):
  """Runs the stage in a prepared folder, and returns the content of its files by name."""
  data = world.section(raw, engine=kind, **(FIELDS | fields))
  folder = stage_lib.Folder(out)
  folder.root.mkdir(exist_ok=True)
  folder.recover()
  engine.check_ready(data)
  folder.run(engine.stage(sources.get('table'), data, epath.Path(raw)))
  assert [path.name for path in pathlib.Path(out).iterdir()] == ['interactions']
  files = pathlib.Path(out).rglob('*')
  return {str(path.relative_to(out)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize('split', ['global_time', 'leave_one_out'])
def test_the_files_equal_those_of_the_local_engine(tmp_path, raw, split):
  expected = prepare(raw, tmp_path / 'local', 'local', split=split)
  assert prepare(raw, tmp_path / 'beam', split=split) == expected


class Killed(BaseException):
  """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize('step', ['group', 'k_core', 'finish', 'find_borders', 'split'])
def test_a_killed_preparation_goes_on_after_the_last_part(tmp_path, raw, monkeypatch, step):
  expected = prepare(raw, tmp_path / 'local', 'local')
  read, calls = reading.read, []
  monkeypatch.setattr(reading, 'read', lambda job, n: (calls.append(n), read(job, n))[1])
  with monkeypatch.context() as patch:

    def kill(*_):
      raise Killed

    patch.setattr(phases_lib.Phases, step, kill)
    with pytest.raises(Killed):
      prepare(raw, tmp_path / 'beam')
  assert prepare(raw, tmp_path / 'beam') == expected
  assert sorted(calls) == [0, 1, 2]  # the shards were read once


def test_a_shard_that_was_not_finished_is_read_again_and_others_are_not(tmp_path, raw, monkeypatch):
  expected = prepare(raw, tmp_path / 'local', 'local')
  read, calls = reading.read, []

  def stop_once(job, shard):
    calls.append(shard)
    if shard == 1 and calls.count(1) == 1:
      raise MemoryError('no memory')
    return read(job, shard)

  monkeypatch.setattr(reading, 'read', stop_once)
  with pytest.raises(RuntimeError, match=r"^the Beam pipeline 'read' failed: .*no memory.*\Z"):
    prepare(raw, tmp_path / 'beam')
  done = set(calls) - {1}
  assert prepare(raw, tmp_path / 'beam') == expected
  assert all(calls.count(shard) == 1 for shard in done) and calls.count(1) == 2


def test_parts_of_other_settings_or_files_are_not_used(tmp_path, raw, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(phases_lib.Phases, 'finish', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepare(raw, tmp_path / 'beam')
  world.write(raw, world.table(seed=1))
  expected = prepare(raw, tmp_path / 'local', 'local', k_core=2)
  assert prepare(raw, tmp_path / 'beam', k_core=2) == expected


@pytest.mark.parametrize('damage', ['cut', 'changed', 'without facts'])
def test_a_damaged_part_is_made_again_or_named(tmp_path, raw, monkeypatch, damage):
  expected = prepare(raw, tmp_path / 'local', 'local')
  with monkeypatch.context() as patch:
    patch.setattr(phases_lib.Phases, 'finish', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepare(raw, tmp_path / 'beam')
  (path,) = pathlib.Path(tmp_path / 'beam').glob(f'.*/{tasks.range_name(1)}.npz')
  content = path.read_bytes()
  if damage == 'cut':
    path.write_bytes(content[:-100])
  elif damage == 'without facts':
    path.with_suffix('.json').unlink()
  else:
    at = content.index(b'times.npy') + 200
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r'range-00001\.npz must be a complete part; .*Remove .*'):
      prepare(raw, tmp_path / 'beam')
    return
  assert prepare(raw, tmp_path / 'beam') == expected


def test_workers_with_other_code_or_settings_are_refused(tmp_path, raw, monkeypatch):
  own = job_lib.code_digest()
  monkeypatch.setattr('data_prep.beam.stage.code_digest', lambda: 'f' * 16)
  message = rf'a worker must run the code of the launcher, {"f" * 16}; \S+ runs {own}\. Install'
  with pytest.raises(ValueError, match=message):
    prepare(raw, tmp_path / 'beam')
  monkeypatch.undo()
  job = world.job(world.section(raw), raw, tmp_path / 'work')
  other = dataclasses.replace(job, data=world.section(raw, k_core=4))
  with pytest.raises(ValueError, match=r'has data\.k_core=4, and .*job\.json 3\. Let one launcher'):
    other.check()
  lost = dataclasses.replace(job, work=Work(str(tmp_path / 'absent'), 'world'))
  with pytest.raises(ValueError, match=r'absent/job\.json must be visible to every worker'):
    lost.check()


def test_a_file_that_is_cut_is_named(tmp_path, raw):
  path = raw / 'interactions-00001-of-00003.parquet'
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match=r'00001-of-00003\.parquet: must be a complete Parquet file'):
    prepare(raw, tmp_path / 'beam')


def test_a_file_that_disappears_is_named(tmp_path, raw, monkeypatch):
  read = reading.read

  def without(job, shard):
    (raw / 'interactions-00002-of-00003.parquet').unlink(missing_ok=True)
    return read(job, shard)

  monkeypatch.setattr(reading, 'read', without)
  with pytest.raises(FileNotFoundError, match='00002-of-00003'):
    prepare(raw, tmp_path / 'beam')
