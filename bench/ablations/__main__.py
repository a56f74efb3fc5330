"""Trains the rows of a table of ablations, and compares them by paired tests over users.

Command:  python -m bench.ablations --table=iirg --data=beauty=FOLDER,sports=FOLDER --workdirs=W --seeds=0,1,2 --out=FILE
          [--parallel=4] [--minutes=9] [--rows='next item alone,+ both'] [--base=configs/{data}.py:cpu]
          [--config.num_train_steps=500 …]

`bench/ablations/tables.py` lists the tables and their rows. A run is one row with one seed: an ordinary training of
`python -m recjax.main` in W/<data>/<row>-<digest>/<seed>, with its log beside it. All runs of a data set share
W/<data>/prepared. --config.… changes a field of all rows. The rows of rec_knowledge have equal numbers of steps, those of
mixture equal numbers of examples, and those of the other tables equal numbers of epochs of next_item, so that rows with
further tasks train longer. --config.num_epochs=E changes the length of a base with epochs, and --config.num_train_steps=N
gives all rows N steps. If the base has stages, each of them has its own length, such as --config.stages.all.num_epochs=E.

The command may be stopped or killed and given again: finished runs are read, others are resumed. A run that was killed is
started again, at most twice; one that fails is named and does not end the table. Finished runs of other raw files than
those of --data are refused. Of a finished run only config.json, evaluation.json, goodput.json and predictions/ are read, so these can
be copied to another machine. The file holds for each split all rows with their means and deviations over seeds, and the
difference of each row to the first (or to the row that it names) for all users, for those whose target is in OneHop(u),
and for the others; seeds are averaged for each user.
"""

from collections.abc import Sequence
import pathlib
import signal
import sys

from absl import app, flags

from bench.ablations import arguments, figures, runs, same_files, tables
from bench.circumstances import circumstances, write
from recjax.runtime import files

_TABLE = flags.DEFINE_string('table', None, 'Name of the table.', required=True)
_DATA = flags.DEFINE_list(
  'data',
  None,
  'Data sets as NAME=FOLDER of the raw files, or NAME if it needs none.',
  required=True,
)
_SEEDS = flags.DEFINE_list('seeds', ['0'], 'Seeds of every row.')
_WORKDIRS = flags.DEFINE_string(
  'workdirs', None, 'Folder of the runs and their data.', required=True
)
_PARALLEL = flags.DEFINE_integer('parallel', 1, 'Runs at a time.', lower_bound=1)
_MINUTES = flags.DEFINE_float(
  'minutes', None, 'Minutes after which no run is started and those that run save and end.', 0
)
_ROWS = flags.DEFINE_list('rows', [], 'Rows to run, and those that they are compared with.')
_BASE = flags.DEFINE_string(
  'base', None, 'Config that replaces the base of the table; {data} is the data set.'
)


def main(argv: Sequence[str]) -> None:
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    table = tables.table(_TABLE.value).chosen(_ROWS.value)
    data = arguments.data(_DATA.value)
    folder = pathlib.Path(_WORKDIRS.value).expanduser()
    files.check_folder(folder, '--workdirs')
    planned = list(
      runs.planned(
        table, data, arguments.seeds(_SEEDS.value), folder, _BASE.value, arguments.checked(argv[1:])
      )
    )
    same_files.check(planned, data, folder)
    unfinished = runs.run_all(planned, _PARALLEL.value, _MINUTES.value)
    results = {
      name: figures.of_data(table, [r for r in planned if r.data == name]) for name in data
    }
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; the same command continues the table')
  for name, found in results.items():
    print(figures.text(name, found), flush=True)
  rows = {
    row.name: {'mixture': row.mixture, 'settings': row.settings, 'against': row.against}
    for row in table.rows
  }
  write(
    {
      'circumstances': circumstances(),
      'table': _TABLE.value,
      'question': table.question,
      'base': _BASE.value or table.base,
      'settings': dict(table.settings),
      'rows': rows,
      'data': results,
    }
  )
  sys.exit(1 if unfinished else 0)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags of this command; --config.… stay as arguments for the runs."""
  own, extra = arguments.parted(argv[1:])
  try:
    return [*flags.FLAGS([argv[0], *own]), *extra]
  except flags.Error as error:
    sys.exit(' '.join(str(error).split()))


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
