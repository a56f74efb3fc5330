"""The report of a run: report.json for programs, report.html (one file, no external parts) for people."""

from collections.abc import Iterable, Mapping, Sequence
import importlib.metadata
import json
import logging
import platform
import statistics
from typing import Any

from etils import epath
import jax
import jinja2
import markupsafe

from recjax import config as config_lib
from recjax import evaluate
from recjax.data.dataset import Dataset
from recjax.report import charts as report_charts
from recjax.runtime import device, goodput
from recjax.runtime.files import code_commit
from recjax.sids import quality
from recjax.train import make_mixture
from recjax.workdir import stages as stages_lib
from recjax.workdir.metrics_file import EVALUATION, read_metrics

log = logging.getLogger(__name__)

PACKAGES = ('recjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
CURVE = EVALUATION + 'ndcg@10'
EXAMPLES = 8  # items whose semantic IDs the report shows


def build_report(
  *,
  config: Mapping[str, Any],
  commit: str | None,
  versions: Mapping[str, str],
  data: Mapping[str, Any],
  sids: Mapping[str, Any],
  metrics: Mapping[str, Mapping[str, float]],
  baselines: Mapping[str, Mapping[str, Any]],
  rows: Sequence[Mapping[str, float | None]],
  mixture_rows: Sequence[Mapping[str, Any]] = (),
  stage: str = '',
  earlier: Sequence[Mapping[str, Any]] = (),
  processes: Sequence[Mapping[str, Any]] = (),
  optimum: Mapping[str, Any] | None = None,
  run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Puts together what report.json holds.

  Args:
    config: the config as nested dicts.
    commit: of the code; None where it is not known.
    versions: of Python and the packages.
    data: users, items, interactions and other statistics.
    sids: `statistics` of the table and what else is known of it; `quality` (`sids.quality.assess`),
      `examples` (title, sid) and `keywords` (token, keywords, description) are shown.
    metrics: `validation` and `test`, each with recall@10, recall@10_stderr, ….
    baselines: by name: the test metrics, and under `validation` the validation ones.
    rows: metrics.jsonl.
    mixture_rows: `Mixture.table()`.
    stage: the name of the stage that these are of, where the run has several: the last one.
    earlier: the other stages in order, each with `name`, `rows` and `mixture_rows`.
    processes: of the run so far, as goodput.json holds them.
    optimum: the best expected test metrics where the law of the data is known.
    run: other facts: best_step, parameters, devices, ….

  Returns:
    A JSON-able dict; `curves` holds at most `report_charts.MAX_POINTS` points of the loss and every
    evaluation, and so in each of `earlier_stages`; `memory` holds the peaks; `optimum_share` is the test metrics divided by the optimum.

  Raises:
    ValueError: the metrics of a split are missing.
  """
  for split in ('validation', 'test'):
    if 'recall@10' not in metrics.get(split, {}):
      raise ValueError(f'a report needs recall@10 of the {split} split; got {sorted(metrics)}')
  throughput = {
    name: statistics.median(speeds)
    for name in ('steps_per_sec', 'tokens_per_sec', 'input_wait_share')
    if (speeds := [row[name] for row in rows if row.get(name) is not None])
  }
  report = {
    'name': config['data']['name'],
    'commit': commit,
    'versions': dict(versions),
    'config': dict(config),
    'data': {'item_text': config['data']['item_text'], **data},
    'sids': dict(sids),
    'stage': stage,
    'earlier_stages': [
      {
        'name': training['name'],
        'mixture': [dict(row) for row in training['mixture_rows']],
        'curves': _curves(training['rows']),
      }
      for training in earlier
    ],
    'mixture': [dict(row) for row in mixture_rows],
    'goodput': goodput.summary(processes) | {'processes': list(processes)} if processes else None,
    'memory': _peaks([*rows, *(row for training in earlier for row in training['rows'])]),
    'run': dict(run or {}),
    'throughput': throughput,
    'metrics': {split: dict(values) for split, values in metrics.items()},
    'baselines': {name: dict(values) for name, values in baselines.items()},
    'curves': _curves(rows),
  }
  if optimum:
    report['optimum'] = dict(optimum)
    report['optimum_share'] = {
      name: metrics['test'][name] / best
      for name, best in optimum.items()
      if isinstance(best, float) and best > 0 and name in metrics['test']
    }
  return report


def _peaks(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
  return {
    name: max(values)
    for name in device.NAMES
    if (values := [row[name] for row in rows if row.get(name) is not None])
  }


def _curves(rows: Iterable[Mapping[str, float | None]]) -> dict[str, list[list[float]]]:
  losses = [(row['step'], row['loss']) for row in rows if row.get('loss') is not None]
  return {
    'loss': [list(point) for point in report_charts.thin(losses)],
    CURVE: [
      [row['step'], row[CURVE], row.get(f'{CURVE}_stderr') or 0.0]
      for row in rows
      if row.get(CURVE) is not None
    ],
  }


def _charts(
  curves: Mapping[str, Sequence], references: Mapping[str, float]
) -> list[tuple[str, markupsafe.Markup]]:
  """Titles and drawings of a training's curves."""
  evaluations = report_charts.line_chart(
    [(step, value) for step, value, _ in curves[CURVE]],
    'ndcg@10',
    errors=[error for _, _, error in curves[CURVE]],
    references=references,
  )
  return [
    ('Training loss', report_charts.line_chart(curves['loss'], 'loss')),
    ('ndcg@10 on the validation sample', evaluations),
  ]


def _flat(values: Mapping[str, Any], prefix: str = '') -> Iterable[tuple[str, str]]:
  """Rows of a table: dotted names and values in words; lists and None as they are in JSON."""
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield prefix + name, report_charts.number(value)
    else:
      yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _sorted_names(metrics: Mapping[str, Any]) -> list[str]:
  """recall@1, recall@5, …, ndcg@1, …: the order of the columns."""
  kinds = ('recall', 'ndcg', 'mrr')
  names = [name for name in metrics if '@' in name and not name.endswith('_stderr')]
  return sorted(names, key=lambda name: (kinds.index(name.split('@')[0]), int(name.split('@')[1])))


def render(report: Mapping[str, Any]) -> str:
  """The HTML page of a report; every text in it is escaped."""
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
  )
  template = environment.from_string(
    (epath.resource_path('recjax.report') / 'report.html.j2').read_text(encoding='utf-8')
  )
  baselines = report['baselines']
  best = max(baselines, key=lambda name: baselines[name]['recall@10'], default=None)
  references = {
    name: values['validation']['ndcg@10']
    for name, values in baselines.items()
    if 'ndcg@10' in values.get('validation', {})
  }
  sids = report['sids']
  statistics_rows = {k: v for k, v in sids.get('statistics', {}).items() if k != 'levels'}
  statistics_rows |= {
    k: v for k, v in (sids.get('quality') or {}).items() if k.startswith('reassigned')
  }
  shown_apart = ('statistics', 'quality', 'examples', 'keywords')
  other = {k: v for k, v in sids.items() if k not in shown_apart}
  return template.render(
    r={
      'optimum': None,
      **report,
      'sids': dict.fromkeys(shown_apart) | sids,
    },
    names=_sorted_names(report['metrics']['test']),
    best_baseline=best if best and baselines[best]['recall@10'] > 0 else None,
    figures=lambda value: f'{value:,}',
    trainings=[
      (training, _charts(training['curves'], references))
      for training in (*report['earlier_stages'], report | {'name': report['stage']})
    ],
    number=report_charts.number,
    data_rows=list(_flat(report['data'])),
    sid_rows=list(_flat(other | statistics_rows)),
    run_rows=[
      *_flat(report['run']),
      *_flat(report['throughput']),
      *((name.replace('bytes', 'GB'), f'{x / 1e9:.2f}') for name, x in report['memory'].items()),
    ],
    config_rows=list(_flat(report['config'])),
    version_rows=[('commit', report['commit'] or 'unknown'), *report['versions'].items()],
  )


def write_report(workdir: epath.PathLike, report: Mapping[str, Any]) -> None:
  """Writes report.json and report.html; each appears whole or not at all.

  Raises:
    ValueError: a number is not finite, which JSON cannot hold.
  """
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  texts = {
    'report.json': json.dumps(report, indent=2, allow_nan=False) + '\n',
    'report.html': render(report),
  }
  for name, text in texts.items():
    partial = workdir / f'.{name}.partial'
    partial.write_text(text, encoding='utf-8')
    partial.replace(workdir / name)


def code_versions() -> dict[str, str]:
  """Versions of Python and of the packages that decide results."""
  versions = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = 'not installed'  # recjax itself, run from its folder
  return versions


def report_run(
  config: config_lib.Config, workdir: epath.PathLike, dataset: Dataset, num_params: int
) -> None:
  """Writes report.json and report.html from what the workdir and the prepared data hold.

  Args:
    config: of the run.
    workdir: holds metrics.jsonl and evaluation.json.
    dataset: the prepared data.
    num_params: parameters of the model.

  Raises:
    ValueError: the workdir holds no evaluation.
  """
  workdir = epath.Path(workdir)
  path = workdir / evaluate.FILE
  if not path.exists():
    raise ValueError(
      f'{path} must exist before a report; run --mode=evaluate on that --workdir first'
    )
  results = json.loads(path.read_text())
  best = dataset.folder / 'optimum' / 'optimum.json'  # only where the law of the data is known
  optimum = json.loads(best.read_text()) if best.exists() else None
  items = range(0, dataset.num_items, max(1, dataset.num_items // EXAMPLES))
  sids = json.loads((dataset.folder / 'sids' / 'sids.json').read_text()) | {
    'examples': [
      {'title': dataset.items[i]['text'], 'sid': dataset.sids.codes_IL[i].tolist()} for i in items
    ][:EXAMPLES]
  }
  quality_file = dataset.folder / 'sids' / quality.FILE
  if quality_file.exists():  # data that were prepared before have none
    sids['quality'] = json.loads(quality_file.read_text())
  if config.needs('keywords') and (entries := dataset.keywords):
    sids['keywords'] = entries[:: max(1, len(entries) // EXAMPLES)][:EXAMPLES]
  trainings = [
    {
      'name': name,
      'rows': read_metrics(folder),
      'mixture_rows': make_mixture(stage_config, dataset).table(),
    }
    for name, stage_config, folder in stages_lib.plan(config, workdir)
  ]
  report = build_report(
    config=config.to_dict() | {name: results[name] for name in ('eval',) if name in results},
    commit=code_commit(),
    versions=code_versions(),
    data=json.loads((dataset.folder / 'interactions' / 'statistics.json').read_text()),
    sids=sids,
    metrics=results['metrics'],
    baselines=results['baselines'],
    rows=trainings[-1]['rows'],
    mixture_rows=trainings[-1]['mixture_rows'],
    stage=trainings[-1]['name'],
    earlier=trainings[:-1],
    processes=goodput.read(workdir),
    optimum=optimum and optimum['test'] | {'validation': optimum['validation']},
    run={
      'best_step': results['step'],
      'parameters': num_params,
      'devices': jax.device_count(),
      'device': jax.devices()[0].device_kind,
      'processes': jax.process_count(),
      'evaluated_rows_per_sec': results['rows_per_sec'],
    },
  )
  write_report(workdir, report)
  if optimum:
    share = 100 * report['optimum_share']['recall@10']
    log.info('%.1f %% of the optimal recall@10 (%.4f)', share, optimum['test']['recall@10'])
  log.info('report: %s', workdir / 'report.html')
