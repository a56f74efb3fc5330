"""Commands that are recorded in result files."""

import os

import pytest

from launch.options import portable, usable_hosts
from tests.folders import ROOT


@pytest.mark.parametrize(
  ('argument', 'expected'),
  [
    ('--config=configs/beauty.py:cpu', '--config=configs/beauty.py:cpu'),
    ('--config.num_train_steps=300', '--config.num_train_steps=300'),
    ('--millions=0.01,3', '--millions=0.01,3'),
    ('--config.profile.steps=(1, 2)', '--config.profile.steps=(1, 2)'),
    ('--config.data.raw_dir=/data/amazon', '--config.data.raw_dir=RAW_DIR'),
    ('--items=../prepared/items.jsonl', '--items=ITEMS'),
    ('--workdir=gs://bucket/run', '--workdir=WORKDIR'),
    ('--scratch=~/x', '--scratch=SCRATCH'),
    (f'--out={ROOT}/results/x.json', '--out=results/x.json'),
    ('--data=beauty=/data/a,demo,toys=~/b', '--data=beauty=DATA,demo,toys=DATA'),
    ('--workdirs=runs/a,/tmp/b', '--workdirs=runs/a,WORKDIRS'),
    ('-train', '-train'),
  ],
)
def test_paths_in_arguments_are_replaced_by_names(argument, expected, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert portable([argument]) == [expected]


def test_a_path_after_its_flag_is_replaced_too(monkeypatch):
  monkeypatch.chdir(ROOT)
  assert portable(['--items', '/tmp/x', '--train']) == ['--items', 'ITEMS', '--train']
  assert portable([os.path.abspath('/tmp')]) == ['PATH']


def test_no_host_is_usable_if_none_is_left():
  assert usable_hosts(['--workdir=w'], 0) == (None, 'no host is left')
