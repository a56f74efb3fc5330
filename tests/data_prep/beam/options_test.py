"""Flags of Beam: what is passed on, and what is refused in one line."""

import pytest

pytest.importorskip('apache_beam', reason='needs Apache Beam: make beam, then make beamtest')

from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from data_prep.beam import options


@pytest.mark.parametrize('runner', ['', '--runner=DirectRunner ', '--runner=direct '])
def test_the_local_runner_needs_no_network(runner):
  found = options.parse(f'{runner}--direct_num_workers=4 --direct_running_mode=multi_processing')
  assert found.view_as(StandardOptions).runner.endswith('.FnApiRunner')
  assert found.view_as(DirectOptions).direct_num_workers == 4


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ('--direct_num_worker=4', r"got '--direct_num_worker'\. Did you mean --direct_num_workers\?"),
    ('4', r"must be flags of Beam; got '4'"),
    ('--direct_running_mode=threads', 'invalid choice'),
    ('--labels="a', 'No closing quotation'),
    ('--runner=FlinkRuner', r"--runner must be one of .*FlinkRunner.*; got 'FlinkRuner'"),
    ('--runner=my.Runner', r"my\.Runner: No module named 'my'"),
    (
      '--direct_num_workers=4',
      r"need --direct_num_workers with .*multi_processing; got 4 and 'in_memory'",
    ),
    ('--direct_num_workers=-1 --direct_running_mode=multi_processing', 'got -1 and'),
    (
      '--num_workers=4',
      r'--num_workers must not be set on this machine, which has --direct_num_workers .*; got 4',
    ),
    (
      '--runner=FnApiRunner --max_num_workers=4',
      r'--max_num_workers must not be set on this machine',
    ),
    ('--streaming', r'--streaming must not be set'),
    ('--runner=PortableRunner', r'PortableRunner needs --job_endpoint'),
    ('--runner=DataflowRunner --project=shop-1', r'Dataflow|temp_location'),
  ],
)
def test_other_flags_are_refused_in_one_line(flags, message):
  with pytest.raises(ValueError, match=message) as error:
    options.parse(flags)
  assert '\n' not in str(error.value) and '--config.data.beam_options' in str(error.value)


def test_a_runner_in_java_needs_it(monkeypatch):
  monkeypatch.setattr('shutil.which', lambda name: None)
  with pytest.raises(ValueError, match=r'SparkRunner needs Java .*or --job_endpoint'):
    options.parse('--runner=SparkRunner')
  options.parse('--runner=SparkRunner --job_endpoint=localhost:8099 --environment_type=LOOPBACK')
