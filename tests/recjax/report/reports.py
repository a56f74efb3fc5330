"""Reports of runs that never were, for the tests of the page."""

from collections.abc import Sequence

from recjax.report import build, published
from recjax.report.facts import Training

RANKERS = ('model', 'popularity', 'transitions', 'item_knn', 'graph', 'bpr_mf', 'sasrec')
NASTY = '</title><script>alert("x")</script> & <b>5" \'bolts\''

HOSTILE = f'{NASTY} </script><!-- \u2028'


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


def group(users: int, recall: float) -> dict:
  """Returns the metrics of a group of users."""
  return {'users': users} | metrics(recall)


def groups(test: float = 0.0812, rankers: Sequence[str] = RANKERS) -> dict:
  """Returns the parts of evaluation.json about groups of 100 test rows: 20 inside, 80 outside."""
  recalls = {name: test / (n + 1) for n, name in enumerate(rankers)}
  inside = {name: 3 * recall for name, recall in recalls.items()}
  outside = {name: recall / 2 for name, recall in recalls.items()}
  buckets = {
    '1': (20, inside),
    '2': (30, outside),
    '3': (50, outside),
    '4': (0, {}),
    'none': (0, {}),
  }
  tables = {
    bucket: {'rows': rows} | {name: metrics(recall) for name, recall in values.items()}
    for bucket, (rows, values) in buckets.items()
  }
  return {
    'memorization': {
      'rule': 'OneHop(u) holds the 50 most frequent successors.',
      'shares': {'inside': 0.2, 'ties_out': 0.19, 'ties_in': 0.25, 'uncut': 0.4},
      'test': {
        name: {
          'inside': group(20, inside[name]),
          'outside': group(80, outside[name]),
          'top5_share': 0.4567,
          'top5_share_stderr': 0.0123,
        }
        for name in rankers
      },
    },
    'splits': {
      'meanings': {
        'hop': 'smallest number of transitions',
        'cold_items': 'cold: unseen in training',
      },
      'ranges': {'popularity': {'1': [0, 3], '2': [4, 4]}},
      'test': dict.fromkeys(('hop', 'popularity', 'history_length', 'cold_items'), tables),
    },
  }


def evaluators(name: str = 'choice') -> dict:
  """Returns the evaluators of evaluation.json: today's retrieval, and another one."""
  found = {
    'rows': 54,
    'rmse': 0.98765,
    'rmse_stderr': 0.01234,
    'unparsed': 7,
    'item_mean': {'rmse': 1.0987},
  }
  retrieval = {split: {'rows': 100} | values for split, values in results()['metrics'].items()}
  return {'retrieval': retrieval, name: {'validation': found, 'test': found | {'auc': None}}}


def protocol(sharing: int = 31) -> dict:
  """Returns the protocol of evaluation.json."""
  return {
    'split': 'leave_one_out',
    'target_rule': 'the last item is the test target',
    'exclude_seen': True,
    'reachable_targets': {'test': {'in_own_history': 3, 'count': 97, 'share': 0.97}},
    'items_sharing_a_sid': sharing,
    'items_sharing_a_sid_share': sharing / 12101,
    'hits': {'test': {'model': {'recall@10': 0.0812, 'sid_recall@10': 0.0899}}},
    'leakage': {
      'rules': {'files': 'the arrays are those of the preparation'},
      'rows': {'test': 100},
    },
  }


def examples(title: str) -> dict:
  """Returns one worked example: a failure with `title` everywhere."""
  item = {'title': title, 'sid': [17, 3]}
  row = {
    'user': title,
    'is_hit': False,
    'rank': None,
    'target': item,
    'history': [item, item],
    'earlier': 23,
    'recommended': [
      item | {'score': -1.2345, 'is_target': False},
      item | {'score': None, 'is_target': False},
    ],
    'labels': {'inside': 'outside', 'hop': '2'},
  }
  return {'rule': 'the first rows', 'rows': [row]}


def sid_map(title: str) -> dict:
  """Returns a map of three items."""
  points = [{'x': n / 3, 'y': -n / 3, 'title': title, 'sid': [n, 7]} for n in range(3)]
  return {'of': 'item vectors', 'items': 12101, 'rule': '3 items', 'points': points}


def whole(title: str = NASTY, **changes) -> dict:
  """Returns the content of report.json with every part."""
  found = (
    results()
    | groups()
    | {
      'evaluators': evaluators(title),
      'protocol': protocol(),
      'seconds_per_row': {'model': 0.0123, 'popularity': 1e-6},
      'baselines_left_out': {'bpr_mf': 120.4},
    }
  )
  config = {'data': {'name': 'my_beauty', 'split': 'leave_one_out'}, 'eval': {'exclude_seen': True}}
  counts = {'users': 22363, 'items': 12101}
  parts = {
    'examples': examples(title),
    'published': published.find(config, counts, found['metrics']['test'], {}),
    'sid_map': sid_map(title),
  }
  return report(results=found, parts=parts, **changes)
