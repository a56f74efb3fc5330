"""The runs of a table: their commands, what is finished, failures, and the limit of time."""

import ast
import functools
import json
import re
import time
import types

import pytest

from bench.ablations import runs, tables
from bench.ablations.tables import Row, Table, others
from recjax import config as config_lib
from recjax.schema import overrides

DEMO = 'configs/demo.py:tiny'
# A process that writes the files of a finished run.
FINISHES = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
for split in ("validation", "test"):
  (folder / "predictions" / split).mkdir(parents=True)
  (folder / "predictions" / split / "retrieval.parquet").touch()
found = {"step": 1, "metrics": {}, "baselines": {}, "rows_per_sec": 1, "training": {"stopped": "steps"}}
(folder / "evaluation.json").write_text(json.dumps(found))
print(sys.argv[1])
"""


def made(tmp_path, name, program):
  workdir = tmp_path / name / '0'
  return runs.Run('shop', Row(name=name), 0, workdir, ('-S', '-c', program, str(workdir)))


def test_a_failed_run_does_not_end_the_table_and_finished_ones_are_not_run_again(tmp_path, capsys):
  good, late = made(tmp_path, 'good', FINISHES), made(tmp_path, 'late', FINISHES)
  bad = made(tmp_path, 'bad', 'raise SystemExit("ValueError: no such field\\n")')
  assert runs.run_all([good, bad, late], parallel=1) == [bad]
  out = capsys.readouterr().out
  assert '0 of 3 runs are finished' in out
  assert re.search(
    r'shop, bad, seed 0: failed after \d+ s, see .*0\.log: ValueError: no such field', out
  )
  assert good.is_finished and late.is_finished
  assert good.log.read_text() == f'{good.workdir}\n'
  assert runs.run_all([good, late], parallel=2) == []
  assert good.log.read_text() == f'{good.workdir}\n'
  assert '2 of 2 runs are finished' in capsys.readouterr().out


def test_after_the_limit_runs_save_and_end_and_none_is_started(tmp_path, capsys, monkeypatch):
  saves = 'import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))\nprint(1, flush=True)\ntime.sleep(60)'
  slow, next_one = made(tmp_path, 'slow', saves), made(tmp_path, 'next', FINISHES)

  def monotonic():  # the limit is over as soon as the process is ready
    return 100.0 if slow.log.exists() and slow.log.read_text() else 0.0

  monkeypatch.setattr(runs, 'time', types.SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
  assert runs.run_all([slow, next_one], parallel=1, minutes=1) == [slow, next_one]
  assert slow.last_line == 'saved'
  assert not next_one.log.exists()
  assert 'shop, slow, seed 0: not finished in the time' in capsys.readouterr().out


def test_an_evaluation_of_an_unfinished_training_is_no_finished_run(tmp_path):
  run = made(tmp_path, 'good', FINISHES)
  runs.run_all([run], parallel=1)
  path = run.workdir / 'evaluation.json'
  fields = json.loads(path.read_text())
  path.write_text(json.dumps(fields | {'training': {'stopped': None}}))
  assert not run.is_finished


def test_commands_hold_the_weight_of_every_component_and_equal_recipes_share_a_workdir(tmp_path):
  rows = [
    Row(name='alone', mixture={'next_item': 1.0}),
    Row(name='+ MIM', mixture=others('mim', share=0.25)),
  ]
  table = Table(
    question='?', base='configs/{data}.py:tiny', rows=rows, settings={'model.depth': '2'}
  )
  found = list(
    runs.planned(table, {'demo': '/raw'}, [3, 4], tmp_path, extra=['--config.batch_size=8'])
  )
  assert [(run.row.name, run.seed) for run in found] == [
    ('alone', 3),
    ('+ MIM', 3),
    ('alone', 4),
    ('+ MIM', 4),
  ]
  first, second, again, _ = found
  assert set(first.command) == {
    '-m', 'recjax.main', f'--config={DEMO}', '--config.data.raw_dir=/raw', '--config.model.depth=2',
    f'--config.data.prepared_dir={tmp_path}/demo/prepared', '--config.batch_size=8', '--config.seed=3',
    '--config.mixture.next_item.weight=1', f'--workdir={first.workdir}',
  }  # fmt: skip
  assert '--config.mixture.mim.weight=0.25' in second.command
  assert first.workdir.parent == again.workdir.parent != second.workdir.parent
  # Another table with the same row shares its runs; other settings do not.
  other = Table(question='?', base=DEMO, rows=rows[:1], settings=table.settings)
  same = next(runs.planned(other, {'demo': '/raw'}, [3], tmp_path, extra=['--config.batch_size=8']))
  assert same.workdir == first.workdir
  changed = next(runs.planned(other, {'demo': '/raw'}, [3], tmp_path))
  assert changed.workdir != first.workdir


def test_a_row_turns_the_other_components_of_its_config_off(tmp_path):
  table = Table(
    question='?', base='configs/beauty.py:tasks', rows=[Row(name='a', mixture={'next_item': 1.0})]
  )
  command = next(runs.planned(table, {'beauty': None}, [0], tmp_path)).command
  assert '--config.mixture.mlm.weight=0' in command
  assert not any('raw_dir' in argument for argument in command)


@pytest.mark.parametrize('name', list(tables.TABLES))
def test_tables_name_tasks_and_rows_that_exist(name):
  from recjax.data.tasks import TASKS

  table = tables.table(name)
  names = [row.name for row in table.rows]
  assert len({*names}) == len(names) and not any(',' in each for each in names)
  for row in table.rows:
    assert row.against is None or row.against in names
    assert {*(row.mixture or {})} <= TASKS.keys()
    assert all(weight > 0 for weight in (row.mixture or {}).values())


@pytest.mark.parametrize('name', list(tables.TABLES))
def test_every_row_of_a_table_is_a_valid_config(name, tmp_path):
  data = 'industrial' if name in ('ts_rec', 'grpo') else 'beauty'
  table = tables.table(name)
  for run in runs.planned(table, {data: None}, [0], tmp_path):
    fields = runs._loaded(table.base.format(data=data))
    arguments = [argument for argument in run.command if argument.startswith('--config.')]
    overrides.add_named(fields, arguments)
    for path, value in overrides.assignments(arguments):
      *sections, field = path.split('.')
      section = functools.reduce(lambda section, part: section[part], sections, fields)
      kind = section.get_type(field)
      section[field] = value if kind is str else kind(ast.literal_eval(value))
    config = config_lib.from_config_dict(fields)
    assert config.active_mixture.keys() == (run.row.mixture or config.mixture).keys()


def test_the_rows_of_the_table_of_grpo_differ_in_that_stage_alone(tmp_path):
  table = tables.table('grpo')
  [without, with_grpo] = runs.planned(table, {'industrial': None}, [0], tmp_path)
  more = [flag for flag in with_grpo.command if flag not in without.command]
  assert all(flag.startswith(('--config.stages.rl.', '--workdir=')) for flag in more)
  assert '--config.stages.rl.kind=grpo' in more
  stages = runs._loaded(table.base.format(data='industrial')).stages
  assert [stage.kind for stage in stages.values()] == ['supervised', 'supervised']
  # The first row is also the last one of ts_rec, so both tables share its run.
  *_, last = runs.planned(tables.table('ts_rec'), {'industrial': None}, [0], tmp_path)
  assert without.workdir == last.workdir


def test_rows_of_the_mixture_have_equal_numbers_of_examples_and_share_the_recipe(tmp_path):
  table = tables.table('mixture')

  def epochs(*extra):
    found = {}
    for run in runs.planned(table, {'beauty': None}, [0], tmp_path, extra=extra):
      flags = [flag.partition('=')[2] for flag in run.command if '.num_epochs=' in flag]
      found[run.row.name] = float(flags[-1]) if flags else None
    return found

  base = runs._loaded(table.base.format(data='beauty'))
  for given, found in ((base.num_epochs, epochs()), (4, epochs('--config.num_epochs=4'))):
    for row in table.rows:
      weights = row.mixture or {name: part.weight for name, part in base.mixture.items()}
      examples = (found[row.name] or base.num_epochs) * sum(weights.values()) / weights['next_item']
      assert examples == pytest.approx(given / 0.8), row.name
  assert not any(epochs('--config.num_train_steps=9').values())
  [recipe] = runs.planned(
    tables.table('recipe').chosen(['recipe']), {'beauty': None}, [0], tmp_path
  )
  shared = [run.workdir for run in runs.planned(table, {'beauty': None}, [0], tmp_path)]
  assert recipe.workdir in shared


def test_wrong_names_are_refused():
  with pytest.raises(
    ValueError,
    match=r"--table must be one of iirg, .*; got 'iirk'; did you mean",
  ):
    tables.table('iirk')
  with pytest.raises(
    ValueError, match=r"--rows must name rows of the table \(next item alone; .*got '\+ bot'"
  ):
    tables.table('iirg').chosen(['+ bot'])
  kept = tables.table('ts_rec').chosen(['SA-Init + TS-Align'])
  assert [row.name for row in kept.rows] == ['random rows', 'SA-Init', 'SA-Init + TS-Align']
  with pytest.raises(
    ValueError, match=r"--base must name a config file .*'configs/none.py' does not exist"
  ):
    list(runs.planned(tables.table('mixture'), {'none': None}, [0], None))
  with pytest.raises(ValueError, match=r"'configs/\{date\}\.py' does not exist"):
    list(runs.planned(tables.table('mixture'), {'demo': None}, [0], None, 'configs/{date}.py'))


def test_a_field_at_its_default_does_not_count_for_the_digest():
  from configs import demo

  config = demo.get_config('tiny')
  found = runs.changed(config)
  assert found['model.width'] == 16 and found['mixture'] == ['next_item']
  assert (
    not {'optim.clip_norm', 'mixture.next_item.weight', 'mixture.next_item.task'} & found.keys()
  )
  config.mixture.next_item.weight = 0.5
  assert runs.changed(config) == found | {'mixture.next_item.weight': 0.5}
