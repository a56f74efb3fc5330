"""Beam's command-line flags in `data.beam_options`, checked before anything is read."""

import argparse
import importlib
import shlex
import shutil

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, WorkerOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners import runner as runner_lib

from recjax.schema.names import near

_FIELD = '--config.data.beam_options'
# DirectRunner fetches a program from the network for every pipeline that it can run, and then ignores
# direct_num_workers. The runner behind it runs in Python.
_DIRECT = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
_JAVA = ('FlinkRunner', 'SparkRunner')  # these start a job server in Java


class _Parser(argparse.ArgumentParser):
  """A parser that raises its errors."""

  def error(self, message: str) -> None:
    raise ValueError(message)


def parse(flags: str) -> PipelineOptions:
  """Returns flags as Beam's options.

  Raises:
    ValueError: Beam does not know a flag or a value, or the runner is not there.
  """
  try:
    words = shlex.split(flags)
    known, unknown = _parser().parse_known_args(words)
  except ValueError as error:
    raise ValueError(f'data.beam_options must be flags of Beam; {error}. Set {_FIELD}') from None
  if unknown:
    raise ValueError(_unknown(unknown[0]))
  options = PipelineOptions(words)
  _check_runner(known)
  standard = options.view_as(StandardOptions)
  if _name(standard.runner or '') in ('', 'DirectRunner', 'FnApiRunner'):
    standard.runner = _DIRECT
    _check_local(known)
  worker = options.view_as(WorkerOptions)
  worker.default_sdk_harness_log_level = worker.default_sdk_harness_log_level or 'ERROR'
  problems = PipelineOptionsValidator(options, runner_lib.create_runner(standard.runner)).validate()
  if problems:
    raise ValueError(f'data.beam_options must be complete; {" ".join(problems)} Set {_FIELD}')
  return options


def _parser() -> _Parser:
  parser = _Parser(add_help=False, allow_abbrev=False)
  for group in _groups(PipelineOptions):
    group._add_argparse_args(parser)
  return parser


def _groups(kind: type) -> list[type]:
  """All classes of options, as Beam itself finds them."""
  found = []
  for group in kind.__subclasses__():
    if group.__module__ == pipeline_options.__name__ and '_add_argparse_args' in vars(group):
      found.append(group)
    found += _groups(group)
  return list(dict.fromkeys(found))


def _unknown(flag: str) -> str:
  name = flag.partition('=')[0]
  options = [option for action in _parser()._actions for option in action.option_strings]
  similar = near(name, options)
  question = f'. Did you mean {similar[0]}?' if similar else '.'
  return f'data.beam_options must be flags of Beam; got {name!r}{question} Set {_FIELD}'


def _name(runner: str) -> str:
  """The name of a runner as Beam spells it: 'direct' is DirectRunner."""
  known = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
  return known.get(runner.lower(), known.get(f'{runner.lower()}runner', runner))


def _check_local(known: argparse.Namespace) -> None:
  """Raises a ValueError if a flag would have no effect on this machine."""
  workers, mode = known.direct_num_workers, known.direct_running_mode
  given = '--direct_num_workers with --direct_running_mode=multi_processing'
  if workers < 0 or (workers != 1 and mode == 'in_memory'):
    raise ValueError(
      f'several workers on this machine need {given}; got {workers} and {mode!r}. Set {_FIELD}'
    )
  for name in ('num_workers', 'max_num_workers'):
    if getattr(known, name) is not None:
      raise ValueError(
        f'--{name} must not be set on this machine, which has {given}; got {getattr(known, name)}. Set {_FIELD}'
      )


def _check_runner(known: argparse.Namespace) -> None:
  """Raises a ValueError if the runner cannot be started here."""
  name = _name(known.runner or 'DirectRunner')
  if known.streaming:
    raise ValueError(
      f'--streaming must not be set: the pipelines read files to their end. Set {_FIELD}'
    )
  if name not in StandardOptions.KNOWN_RUNNER_NAMES and '.' not in name:
    names = ', '.join(StandardOptions.KNOWN_RUNNER_NAMES)
    raise ValueError(f'--runner must be one of {names}; got {name!r}. Set {_FIELD}')
  if name in _JAVA and not known.job_endpoint and shutil.which('java') is None:
    raise ValueError(
      f'{name} needs Java for its job server, or --job_endpoint of one that runs; got no program java. Set {_FIELD}'
    )
  if name == 'PortableRunner' and not known.job_endpoint:
    raise ValueError(
      f'PortableRunner needs --job_endpoint, as localhost:8099; got none. Set {_FIELD}'
    )
  try:
    if name == 'DataflowRunner':
      importlib.import_module('apache_beam.runners.dataflow.internal.apiclient')
    runner_lib.create_runner(name)
  except (ImportError, AttributeError, ValueError) as error:
    packages = (
      "Install it: pip install 'apache-beam[gcp]==2.77.0'. Or set"
      if name == 'DataflowRunner'
      else 'Set'
    )
    raise ValueError(
      f'--runner must be there; {name}: {str(error).rstrip(".")}. {packages} another one in {_FIELD}'
    ) from None
