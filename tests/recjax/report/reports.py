"""Reports of runs that never were, for the tests of the page."""

from recjax.report import build
from recjax.report.facts import Training

NASTY = '</title><script>alert("x")</script> & <b>5" \'bolts\''


def metrics(recall: float) -> dict[str, float]:
  """Returns possible metrics with this recall@10."""
  return {
    f'{name}@{k}{suffix}': recall * k / 10 / (1 if suffix == '' else 50)
    for name in ('recall', 'ndcg', 'mrr')
    for k in (1, 10)
    for suffix in ('', '_stderr')
  }


def mixture_row(name: str, **changes) -> dict:
  """Returns a row of mixture.json."""
  return {
    'name': name,
    'task': 'next_item',
    'from_example': 0,
    'examples': 10_000,
    'units': 7,
    'share': 1.0,
    'token_share': 1.0,
    'target_share': 1.0,
    'loss_weight': 1.0,
  } | changes


def results(test: float = 0.0812) -> dict:
  """Returns the content of evaluation.json."""
  return {
    'step': 400,
    'metrics': {'validation': metrics(0.09), 'test': metrics(test)},
    'baselines': {
      'popularity': metrics(0.0135) | {'validation': metrics(0.014)},
      'transitions': metrics(0.0707) | {'validation': metrics(0.08)},
    },
  }


def rows() -> list[dict]:
  """Returns the lines of metrics.jsonl."""
  found = [
    {'step': s, 'loss': 5 / s, 'steps_per_sec': 2.0, 'tokens_per_sec': 4e3} for s in range(1, 501)
  ]
  for s in (100, 200, 500):
    found[s - 1] |= {'validation/ndcg@10': s / 1e4, 'validation/ndcg@10_stderr': 0.002}
  return found


def training(name: str = '', **changes) -> Training:
  mixture = [mixture_row(NASTY, share=0.75, units=54321)]
  return Training(**{'name': name, 'rows': rows(), 'mixture': mixture} | changes)


def report(item_text: str = 'original', name: str = 'beauty', **changes) -> dict:
  """Returns the content of report.json."""
  return build.build_report(
    **{
      'config': {
        'seed': 0,
        'data': {'name': name, 'item_text': item_text, 'raw_dir': None},
        'mixture': {NASTY: {'task': 'next_item', 'weight': 1.0}},
      },
      'data': {'item_text': item_text, 'users': 22363, 'items': 12101, 'interactions': 198502},
      'sids': {
        'levels': 2,
        'codes_per_level': [256, 4],
        'statistics': {
          'colliding_items': 1234,
          'levels': [
            {'codes': 256, 'used': 250, 'perplexity': 200.125},
            {'codes': 4, 'used': 3, 'perplexity': 1.5},
          ],
        },
        'examples': [{'title': NASTY, 'sid': [17, 3]}],
        'keywords': [{'token': '<a_17>', 'description': NASTY, 'keywords': ['soap', NASTY]}],
      },
      'results': results(),
      'trainings': [training()],
      'run': {'best_step': 400, 'parameters': 1_234_567},
    }
    | changes
  )


def process(trainings: dict, ended=None) -> dict:
  """Returns a process of goodput.json: six tenths steps, three compile, one start-up."""
  total = sum(seconds for *_, seconds in trainings.values()) / 6
  return {
    'began': '2030-01-02T03:04:05+00:00',
    'ended': ended,
    'first_step_after': 12.5,
    'seconds': {'steps': 6 * total, 'compile': 3 * total, 'start_up': total},
    'trainings': {
      name: {'from': first, 'to': last, 'seconds': seconds}
      for name, (first, last, seconds) in trainings.items()
    },
  }
