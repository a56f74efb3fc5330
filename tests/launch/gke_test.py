"""Checks the GKE launcher: validates its manifest against a schema, and its calls of kubectl."""

import datetime
import json
import pathlib
import sys

import jsonschema
import pytest
import yaml

from launch import gke, gke_watch
from tests.launch.fakes import Fakes

SCHEMA = json.loads(pathlib.Path(__file__).with_name('jobset_schema.json').read_text())
PROGRAM = (
  '--config=configs/demo.py',
  '--workdir=gs://b/w',
  '--config.data.prepared_dir=gs://b/data',
)
TPU = ('--name=run', '--image=r/i:1', '--tpu=tpu-v5-lite-podslice', '--topology=4x4')
GPU = ('--name=run', '--image=r/i:1', '--gpu=nvidia-h100-80gb', '--nodes=4')


def manifest(*options):
  jobset = gke.manifest(*gke._parse([*options, *PROGRAM]))
  read = yaml.safe_load(yaml.safe_dump(jobset, sort_keys=False))
  jsonschema.validate(read, SCHEMA)
  return read


def job(jobset):
  [group] = jobset['spec']['replicatedJobs']
  return group['replicas'], group['template']['spec']


def pod(jobset):
  return job(jobset)[1]['template']['spec']


def environment(jobset):
  return {
    row['name']: row.get('value', row.get('valueFrom'))
    for row in pod(jobset)['containers'][0]['env']
  }


def test_a_slice_is_a_job_with_one_pod_per_host():
  jobset = manifest(*TPU, '--slices=2', '--spot')
  replicas, spec = job(jobset)
  assert replicas == 2
  assert spec['parallelism'] == spec['completions'] == 4  # 16 chips, 4 per host
  assert pod(jobset)['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
    'cloud.google.com/gke-spot': 'true',
  }
  assert pod(jobset)['containers'][0]['resources']['limits'] == {'google.com/tpu': 4}
  assert pod(jobset)['containers'][0]['securityContext'] == {'runAsUser': 0}
  assert environment(jobset) == {
    'PYTHONUNBUFFERED': '1',
    'RECJAX_MULTIHOST': '1',
    'RECJAX_NUM_PROCESSES': '8',
  }
  assert jobset['metadata']['annotations'] == {
    'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
  }


def test_a_slice_of_one_host_is_one_process():
  jobset = manifest(*TPU[:3], '--topology=2x4', '--chips_per_host=8')
  assert job(jobset)[1]['parallelism'] == 1
  assert environment(jobset) == {'PYTHONUNBUFFERED': '1'}
  assert 'annotations' not in jobset['metadata']


def test_gpu_nodes_find_process_0_by_its_host_name():
  jobset = manifest(*GPU, '--service_account=s')
  replicas, spec = job(jobset)
  assert (replicas, spec['parallelism']) == (1, 4)
  assert pod(jobset)['containers'][0]['resources']['limits'] == {'nvidia.com/gpu': 8}
  assert pod(jobset)['nodeSelector'] == {'cloud.google.com/gke-accelerator': 'nvidia-h100-80gb'}
  assert pod(jobset)['serviceAccountName'] == 's'
  env = environment(jobset)
  assert env['RECJAX_COORDINATOR'] == 'run-workers-0-0.run:8476'
  assert env['RECJAX_NUM_PROCESSES'] == '4'
  index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert env['RECJAX_PROCESS_ID'] == {'fieldRef': {'fieldPath': index}}


def test_preemptions_are_not_counted_as_restarts():
  jobset = manifest(*TPU, '--restarts=3')
  _, spec = job(jobset)
  assert spec['backoffLimit'] == 0
  assert pod(jobset)['restartPolicy'] == 'Never'  # required by podFailurePolicy
  by_status, by_condition = spec['podFailurePolicy']['rules']
  assert by_status['onExitCodes']['values'] == [75]
  assert by_status['onExitCodes']['containerName'] == pod(jobset)['containers'][0]['name']
  assert by_condition['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
  assert jobset['spec']['failurePolicy']['maxRestarts'] == 3
  [rule] = jobset['spec']['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']


def test_program_arguments_are_passed_literally():
  jobset = gke.manifest(*gke._parse([*TPU, *PROGRAM, '--', '--restarts=$(HOME)']))
  command = pod(jobset)['containers'][0]['command']
  assert command == ['python', '-m', 'recjax.main', *PROGRAM, '--restarts=$$(HOME)']


@pytest.mark.parametrize('key', ['podFailurePolic', 'backoffLimits'])
def test_the_schema_rejects_an_unknown_field(key):
  jobset = manifest(*TPU)
  job(jobset)[1][key] = 1
  with pytest.raises(jsonschema.ValidationError, match=key):
    jsonschema.validate(jobset, SCHEMA)


def test_kubectl_applies_the_written_manifest(tmp_path):
  fakes = Fakes(tmp_path, 'kubectl', plan={'kubectl apply': [{'status': 4}]})
  out = tmp_path / 'x.yaml'
  command = [sys.executable, '-m', 'launch.gke', *TPU, f'--out={out}', *PROGRAM]
  dry = fakes.run(*command, '--dry_run')
  assert dry.returncode == 0, dry.stderr
  assert fakes.calls() == []
  assert not out.exists()
  assert fakes.run(*command).returncode == 4
  assert fakes.calls() == [['kubectl', 'apply', '-f', str(out), '']]
  assert yaml.safe_load(out.read_text()) == yaml.safe_load(dry.stdout) == manifest(*TPU)


def pods(*ages, job=0):
  """Returns pods without a node, of that age in seconds; None: with one."""
  now = datetime.datetime.now(datetime.UTC)
  found = []
  for n, age in enumerate(ages):
    labels = {'jobset.sigs.k8s.io/job-index': str(job)}
    created = (now - datetime.timedelta(seconds=age or 999)).isoformat(timespec='seconds')
    pod = {'metadata': {'name': f'run-{job}-{n}', 'labels': labels, 'creationTimestamp': created}}
    pod['status'] = {'phase': 'Running' if age is None else 'Pending'}
    found.append(pod)
  return found


def answer(value):
  return {'out': json.dumps(value)}


RUNS = answer({'status': {}})
COMPLETED = answer({'status': {'conditions': [{'type': 'Completed', 'status': 'True'}]}})


@pytest.fixture
def watched(tmp_path, monkeypatch):
  """Returns a function that watches a run whose batch goes into as many parts as it is told."""

  def run(listed, left, *options):
    usable = lambda program, at_most, *shape: (left[at_most, *shape], '')  # noqa: E731
    monkeypatch.setattr(gke_watch, 'usable_hosts', usable)
    gets = [*[RUNS] * len(listed), COMPLETED]
    plan = {'get jobset': gets, 'get pods': [answer({'items': items}) for items in listed]}
    fakes = Fakes(tmp_path, 'kubectl', plan=plan | {'apply': [{}], 'delete': [{}]})
    monkeypatch.setenv('PATH', fakes.env['PATH'])
    monkeypatch.setattr(gke_watch.time, 'sleep', lambda _: None)
    out = tmp_path / 'x.yaml'
    status = gke.main([*options, f'--out={out}', '--patience=100', *PROGRAM])
    verbs = [call[1] for call in fakes.calls() if call[1] != 'get']
    return status, verbs, yaml.safe_load(out.read_text())

  return run


def test_slices_without_nodes_are_left_out(watched, capfd):
  lost = [*pods(None, None), *pods(200, 200, job=1), *pods(50, job=2)]
  options = (*TPU, '--slices=4', '--min_slices=2')
  status, verbs, last = watched([pods(None, 50), lost], {(3, 4, 4): 2}, *options)
  assert (status, verbs) == (0, ['apply', 'delete', 'apply'])
  assert job(last)[0] == 2
  assert environment(last)['RECJAX_NUM_PROCESSES'] == '8'
  assert '1 of 4 slices found no node; the run goes on with 2' in capfd.readouterr().err


def test_nodes_are_left_out_but_not_below_the_minimum(watched, capfd):
  lost = pods(None, None, 200, 200)
  status, verbs, last = watched([lost], {(2, 1, 8): 2}, *GPU, '--min_nodes=2')
  assert (status, verbs, job(last)[1]['parallelism']) == (0, ['apply', 'delete', 'apply'], 2)
  status, verbs, _ = watched([lost], {(2, 1, 8): 2}, *GPU, '--min_nodes=3')
  assert (status, verbs[3:]) == (1, ['apply'])
  assert 'could go on with 2, less than the minimum 3' in capfd.readouterr().err


def test_copies_in_memory_are_in_the_memory_of_the_node():
  copied = manifest(*TPU, '--config.checkpoint.memory_every=50')
  assert pod(copied)['volumes'] == [{'name': 'shm', 'hostPath': {'path': '/dev/shm'}}]
  assert pod(copied)['containers'][0]['volumeMounts'][0]['mountPath'] == '/dev/shm'
  assert 'volumes' not in pod(manifest(*TPU, '--config.checkpoint.memory_every=0'))
  assert pod(manifest(*GPU))['volumes'] == [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      (*TPU, '--min_nodes=1', *PROGRAM),
      '--min_nodes goes with --gpu, not with --tpu; set --min_slices',
    ),
    ((*TPU, '--nodes=4', *PROGRAM), '--nodes goes with --gpu, not with --tpu; set --slices'),
    ((*TPU, '--gpus_per_node=8', *PROGRAM), '--gpus_per_node goes with --gpu, not with --tpu'),
    ((*GPU, '--slices=4', *PROGRAM), '--slices goes with --tpu, not with --gpu; set --nodes'),
    ((*GPU, '--topology=4x4', *PROGRAM), '--topology goes with --tpu, not with --gpu'),
    ((*GPU, '--chips_per_host=2', *PROGRAM), '--chips_per_host goes with --tpu, not with --gpu'),
    ((*TPU[:3], '--topology=0x4', *PROGRAM), '--topology must be positive numbers of chips'),
    ((*GPU, '--min_nodes=5', *PROGRAM), '--min_nodes must be at most --nodes=4'),
    ((*TPU, *GPU[2:], *PROGRAM), 'either --tpu or --gpu'),
    ((*TPU[:2], *PROGRAM), 'either --tpu or --gpu'),
    ((*TPU[:3], *PROGRAM), '--topology must be positive numbers of chips along each axis'),
    ((*TPU[:3], '--topology=2x3', *PROGRAM), 'has 6 chips, which must be a multiple'),
    ((*TPU, '--name=Run', *PROGRAM), '--name must be at most 40 lower-case'),
    ((*TPU, *PROGRAM[:1]), '--workdir must be a gs:// path'),
  ],
)
def test_invalid_options_are_rejected(arguments, message, capsys):
  with pytest.raises(SystemExit):
    gke.main([*arguments, '--dry_run'])
  assert message in capsys.readouterr().err
