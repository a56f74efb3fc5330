"""Writes the report of a run: report.json for programs, and report.html, which needs no other file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import importlib.metadata
import json
import logging
import math
import platform
import statistics
from typing import Any

from etils import epath
import jax

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.report import checks, examples, facts, numbers, protocol, published, sid_map
from recjax.report.facts import Training
from recjax.report.page import chosen_metric, render
from recjax.runtime import device, goodput
from recjax.runtime.files import code_commit, write_whole
from recjax.workdir import evaluation_file, refresh_file
from recjax.workdir.metrics_file import EVALUATION

log = logging.getLogger(__name__)

PACKAGES = ('recjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
SPEEDS = ('steps_per_sec', 'tokens_per_sec', 'input_wait_share')  # columns of metrics.jsonl
COPIED = (
  'rankers', 'blend', 'evaluators', 'memorization', 'splits', 'protocol', 'seconds_per_row', 'baselines_left_out',
)  # fmt: skip  # keys of evaluation.json that earlier versions did not write
JSON, HTML = 'report.json', 'report.html'


def report_run(
  config: Config,
  workdir: epath.PathLike,
  dataset: Dataset,
  num_params: int,
  stages: Sequence[tuple[str, epath.Path]] = (),
  description: Mapping[str, Any] | None = None,
) -> None:
  """Writes report.json and report.html from the files in a workdir and the data set that was loaded.

  Args:
    config: config of the latest start of the run.
    workdir: workdir of the run.
    dataset: the evaluated data.
    num_params: number of parameters of the model.
    stages: name and folder of every stage in order. Empty: the run has no stages.
    description: the result of `recjax.describe.describe`. None: the page shows the statistics of the preparation.

  Raises:
    ValueError: there is no evaluation, it holds impossible figures, or other data were evaluated.
  """
  workdir = epath.Path(workdir)
  results = evaluation_file.read(workdir)
  checks.check_evaluation(results, dataset, workdir / evaluation_file.FILE)
  trainings = [facts.training(name, folder) for name, folder in stages or [('', workdir)]]
  optimum = dataset.optimum
  item_text = results.get('data', {}).get('item_text', config.data.item_text)
  evaluated = config.to_dict() | {name: results[name] for name in ('eval',) if name in results}
  counts = {'item_text': item_text, **(dataset.statistics or {})}
  warnings = checks.warnings(results, config, dataset, trainings)
  try:
    worked = examples.examples(workdir, dataset, results)
  except ValueError as error:
    worked = None
    warnings.append(f'There are no worked examples: {error}.')
  sids_hit = protocol.sid_metrics(results.get('protocol'))
  report = build_report(
    config=evaluated,
    data=counts,
    sids=facts.sids(config, dataset),
    results=results,
    trainings=trainings,
    warnings=warnings,
    processes=facts.processes(workdir),
    refresh=refresh_file.read(workdir),
    description=description,
    optimum=optimum and optimum['test'] | {'validation': optimum['validation']},
    parts={
      'sample': checks.samples(results, dataset) or None,
      'examples': worked,
      'published': published.find(evaluated, counts, results['metrics']['test'], sids_hit),
      'sid_map': sid_map.sid_map(config, dataset),
    },
    run={
      'best_step': results['step'],
      'parameters': num_params,
      'devices': jax.device_count(),
      'device': jax.devices()[0].device_kind,
      'processes': jax.process_count(),
      'evaluated_rows_per_sec': results['rows_per_sec'],
      **{name: results[name] for name in ('training',) if name in results},
    },
  )
  write_report(workdir, report)
  for warning in report['warnings']:
    log.warning('report: %s', warning)
  if optimum:
    share = 100 * report['optimum_share']['recall@10']
    log.info('%.1f %% of the optimal recall@10 (%.4f)', share, optimum['test']['recall@10'])
  log.info('report: %s', workdir / HTML)


def build_report(
  *,
  config: Mapping[str, Any],
  data: Mapping[str, Any],
  sids: Mapping[str, Any],
  results: Mapping[str, Any],
  trainings: Sequence[Training],
  warnings: Sequence[str] = (),
  processes: Sequence[Mapping[str, Any]] = (),
  optimum: Mapping[str, Any] | None = None,
  description: Mapping[str, Any] | None = None,
  refresh: Mapping[str, Any] | None = None,
  run: Mapping[str, Any] | None = None,
  parts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns the content of report.json.

  Args:
    config: the config as nested dicts.
    data: `item_text`, `users`, `items`, `interactions` and other statistics.
    sids: the result of `facts.sids`.
    results: content of evaluation.json; see `recjax.workdir.evaluation_file`.
    trainings: trainings of the run, in order.
    warnings: sentences for the top of the report.
    processes: processes of the run, as in goodput.json.
    optimum: the best possible expected test metrics if the distribution of the data is known, with
      `validation`.
    description: see `report_run`.
    refresh: the content of refresh.json.
    run: further entries: best_step, parameters, devices, ….
    parts: further parts of the report by name: `sample`, `examples`, `published`, `sid_map`; those that are None are left out.

  Returns:
    JSON. `curves` holds at most `numbers.MAX_POINTS` points of the loss, and every evaluation. `memory` holds
    peaks of all trainings. `optimum_share` holds test metrics divided by the optimum. `curves`, `mixture` and
    `starts` are those of the last training; `earlier_stages` holds those of the others.
  """
  last, metrics = trainings[-1], results['metrics']
  curve = EVALUATION + chosen_metric(config)
  report = {
    'name': config['data']['name'],
    'commit': code_commit(),
    'versions': code_versions(),
    'warnings': list(warnings),
    'config': dict(config),
    'data': dict(data),
    'description': None if description is None else dict(description),
    'refresh': None if refresh is None else dict(refresh),
    'sids': dict(sids),
    'stage': last.name,
    'earlier_stages': [{'name': each.name, **_training(each, curve)} for each in trainings[:-1]],
    **_training(last, curve),
    'goodput': goodput.summary(processes) | {'processes': list(processes)} if processes else None,
    'memory': _values(max, device.NAMES, [row for each in trainings for row in each.rows]),
    'run': dict(run or {}),
    'throughput': _values(statistics.median, SPEEDS, last.rows),
    'metrics': {split: dict(values) for split, values in metrics.items()},
    'evaluation': checks.ceilings(results),
    'baselines': {name: dict(values) for name, values in results['baselines'].items()},
  }
  report |= {name: results[name] for name in COPIED if name in results}
  if optimum:
    report['optimum'] = dict(optimum)
    report['optimum_share'] = {
      name: metrics['test'][name] / best
      for name, best in optimum.items()
      if isinstance(best, float) and best > 0 and name in metrics['test']
    }
  return report | {name: part for name, part in (parts or {}).items() if part is not None}


def _training(training: Training, curve: str) -> dict[str, Any]:
  losses = [(row['step'], row['loss']) for row in training.rows if _has(row, 'loss')]
  return {
    'mixture': [dict(row) for row in training.mixture],
    'starts': [dict(start) for start in training.starts],
    'curves': {
      'loss': [list(point) for point in numbers.thin(losses)],
      curve: [
        [row['step'], row[curve], row.get(f'{curve}_stderr') or 0.0]
        for row in training.rows
        if _has(row, curve)
      ],
    },
  }


def _values(
  summary: Callable[[list[float]], float], names: Iterable[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns the summary of every column of metrics.jsonl that has values, by name."""
  columns = {name: [row[name] for row in rows if _has(row, name)] for name in names}
  return {name: summary(values) for name, values in columns.items() if values}


def _has(row: Mapping[str, float | None], name: str) -> bool:
  """Returns whether a row of metrics.jsonl has a finite value with this name."""
  value = row.get(name)
  return value is not None and math.isfinite(value)


def write_report(workdir: epath.PathLike, report: Mapping[str, Any]) -> None:
  """Writes report.json and report.html, each atomically.

  Raises:
    ValueError: a number is not finite, which JSON cannot hold.
  """
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  texts = {
    JSON: json.dumps(report, indent=2, allow_nan=False) + '\n',
    HTML: render(report),
  }
  for name, text in texts.items():
    write_whole(workdir / name, text)


def code_versions() -> dict[str, str]:
  """Returns the versions of Python and of PACKAGES."""
  versions = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = 'not installed'  # such as recjax, if it runs from a checkout
  return versions
