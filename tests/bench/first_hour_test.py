"""The table of the first hour."""

from bench import first_hour


def test_the_table_has_a_line_for_every_log():
  training = {'best_epoch': 3.04, 'epochs': 8.0, 'steps': 80, 'num_train_steps': 400}
  recall = {'model': 0.3312, 'transitions': 0.31, 'popularity': 0.1}
  row = {'rows': 8455, 'recall@10': recall, 'stderr': 0.0171, 'training': training, 'seconds': 61}
  head, *lines = first_hour.table(dict.fromkeys(first_hour.LOGS, row)).splitlines()
  assert head.split()[:3] == ['log', 'rows', 'model'] and len(lines) == len(first_hour.LOGS)
  assert lines[1].split() == (
    [
      'middle',
      '8,455',
      '0.3312',
      '±',
      '0.0171',
      '0.3100',
      '0.1000',
      '3.0',
      'of',
      '8.0',
      '80',
      'of',
      '400',
      '61',
    ]
  )
