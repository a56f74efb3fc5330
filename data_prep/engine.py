"""Chooses what prepares the log and the relations: this process, or pipelines of Apache Beam."""

import dataclasses
import importlib.util
from types import ModuleType

from etils import epath

from data_prep import stage as stage_lib
from data_prep.log import stage as log_stage
from recjax.schema.checks import check
from recjax.schema.data import Data


def check_ready(data: Data) -> None:
  """Checks before the raw files are read that the engine is installed and knows its options.

  Raises:
    ValueError: it is not or does not.
  """
  if data.engine != 'beam':
    return
  check(
    importlib.util.find_spec('apache_beam') is not None,
    "data.engine='beam' needs Apache Beam, which `make beam` installs (or pip install -r requirements-beam.txt)",
    'no package apache_beam',
    "data.engine='local' to prepare without it",
  )
  from data_prep.beam import options  # here: it needs Apache Beam

  options.parse(data.beam_options)


def stage(source: ModuleType, data: Data, raw_dir: epath.Path) -> stage_lib.Stage:
  """Returns the `interactions` stage, which the engine of the config runs."""
  made = log_stage.stage(source, data, raw_dir)
  if data.engine != 'beam':
    return made

  def run(out: epath.Path):
    from data_prep.beam import stage as beam_stage

    return beam_stage.write(made, data, raw_dir, out)

  return dataclasses.replace(made, run=run)
