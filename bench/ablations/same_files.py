"""Checks that finished runs are of the raw files that --data names: their workdirs have the name of the data set alone."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from etils import epath

from bench.ablations.runs import Run
from data_prep import engine, prepare, sources
from data_prep import stage as stage_lib
from recjax.data.dataset import Log
from recjax.runtime import files
from recjax.schema.data import Data
from recjax.workdir import evaluation_file, identity, paths


def check(runs: Sequence[Run], data: Mapping[str, str | None], folder: pathlib.Path) -> None:
  """Checks the finished runs of every data set, before any other is started.

  The log of the raw files is prepared in FOLDER/<data>/prepared if it is not there, and compared with that of the runs:
  its sequences, and the whole stage where the runs were trained on data in that folder. Finished runs whose raw files
  are absent are read without a comparison, if --data names no folder.

  Args:
    runs: the runs of a table.
    data: name of the data set → folder of its raw files; None: it needs none, or they are in the usual folder.
    folder: workdirs and prepared data are in FOLDER/<data>.

  Raises:
    ValueError: a finished run is of other raw files. The message names both folders.
    FileNotFoundError: a folder does not hold the raw files.
  """
  logs: dict[str, Log | None] = {}
  for run in runs:
    config = identity.config_of(epath.Path(run.workdir)) if run.is_finished else None
    if config is None:
      continue
    now = dataclasses.replace(
      config.data, raw_dir=data[run.data], prepared_dir=str(folder / run.data / 'prepared')
    )
    key = files.digest([run.data, now.identifying()])
    if key not in logs:
      logs[key] = _log(dataclasses.replace(config, data=now), run.data)
    log = logs[key]
    if log is not None and not _is_of(run, log):
      raise ValueError(
        f'--data={run.data} must name the raw files of the finished runs in {folder / run.data}; {run.workdir} was '
        f'trained on those of {_place(config.data)}, and {_place(now)} holds others. Give that folder, or other '
        '--workdirs'
      )


def _place(data: Data) -> str:
  return data.raw_dir or f'the data set {data.name}'


def _log(config, name: str) -> Log | None:
  """Returns the log of the raw files of a config; None: they are absent, and no folder was named."""
  raw = prepare.raw_dir(config)
  inputs = engine.stage(sources.get(config.data.source), config.data, raw).inputs.values()
  absent = [path for path in inputs if not path.exists()]
  if absent and config.data.raw_dir is None:
    return None
  if absent:
    raise FileNotFoundError(
      f'--data={name} must name the folder of the raw files; {absent[0]} does not exist'
    )
  return Log.load(prepare.prepare_log(config))


def _is_of(run: Run, log: Log) -> bool:
  """Returns whether a run was trained and evaluated on a log, as far as its files tell."""
  evaluated = evaluation_file.read(epath.Path(run.workdir)).get('data', {})
  if evaluated.get('interactions') not in (None, evaluation_file.log_digest(log)):
    return False
  trained = paths.read(epath.Path(run.workdir))
  root = log.folder.root
  if trained is None or trained.prepared_folder != paths.absolute(root):
    return True  # a copy from another place
  manifest = stage_lib.read_manifest(
    root / (trained.stages or {}).get('interactions', 'interactions')
  )
  return manifest is None or manifest['files'] == log.manifest('interactions')['files']
