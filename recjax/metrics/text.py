"""Metrics as lines of the log."""

from collections.abc import Mapping


def headline(metrics: Mapping[str, float]) -> str:
  """Returns one line of the metrics of retrieval; `eval.ks` always holds 10."""
  recalls = [f'{name} {metrics[name]:.4f}' for name in ('recall@5', 'recall@10') if name in metrics]
  error, ndcg = metrics['recall@10_stderr'], metrics['ndcg@10']
  return f'{"  ".join(recalls)} ± {error:.4f}  ndcg@10 {ndcg:.4f}'


def line(metrics: Mapping[str, float]) -> str:
  """Returns one line of the metrics of an evaluator, with their standard errors."""
  shown = []
  for name, value in metrics.items():
    if not name.endswith('_stderr'):
      error = metrics.get(f'{name}_stderr')
      text = f'{value}' if isinstance(value, int) else f'{value:.4f}'
      shown.append(f'{name} {text}' + ('' if error is None else f' ± {error:.4f}'))
  return '  '.join(shown)
