"""Runs recjax on a GKE cluster, as a JobSet of TPU slices or of GPU nodes.

  python -m launch.gke --name=sports --image=IMAGE --tpu=tpu-v5-lite-podslice --topology=4x4 \\
    --config=configs/sports.py --workdir=gs://B/sports --config.data.prepared_dir=gs://B/data
  python -m launch.gke --name=sports --image=IMAGE --gpu=nvidia-h100-80gb --gpus_per_node=8 --nodes=4 …

writes the manifest to NAME.yaml and applies it with kubectl; --dry_run prints it. With --min_slices or --min_nodes it
then watches the run, and goes on with fewer if others find no node. Options that the launcher does not know are passed
to the program. See docs/gke.md.
"""

import argparse
from collections.abc import Sequence
import math
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import yaml

from launch import gke_watch
from launch.options import flag, not_negative, parse, positive, require_bucket
from recjax.runtime import exit_status

_JOB = 'workers'  # the only replicated job of the JobSet
_CONTAINER = 'recjax'
_PORT = 8476
_MAX_NAME = (
  40  # so that the longest pod name, NAME-workers-SLICE-POD-SUFFIX, has at most 63 characters
)
# Of each kind of node: the options that the other one lacks, with what to set there; and the values of absent ones.
_OPTIONS = {
  'tpu': {
    'topology': '',
    'chips_per_host': '; set --gpus_per_node',
    'slices': '; set --nodes',
    'min_slices': '; set --min_nodes',
  },
  'gpu': {
    'gpus_per_node': '; set --chips_per_host',
    'nodes': '; set --slices',
    'min_nodes': '; set --min_slices',
  },
}
_DEFAULTS = {'tpu': {'chips_per_host': 4, 'slices': 1}, 'gpu': {'gpus_per_node': 8, 'nodes': 1}}


def main(argv: Sequence[str] | None = None) -> int:
  """Writes and applies the manifest; returns kubectl's exit status."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  command = ['kubectl', 'apply', '-f', options.out or f'{options.name}.yaml']

  def text() -> str:
    return yaml.safe_dump(manifest(options, program), sort_keys=False, width=1000)

  def apply() -> int:
    pathlib.Path(command[-1]).write_text(text())
    return subprocess.run(command, check=False).returncode

  if options.dry_run:
    print(f'# {shlex.join(command)}, with\n{text()}', end='')
    return 0
  if (options.min_slices or options.min_nodes) is None:
    return apply()
  chips = options.chips_per_host
  shape = (_pods(options), chips) if options.tpu is not None else (1, options.gpus_per_node)
  return gke_watch.watch(options, program, apply, shape)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.gke', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--name', required=True, help='name of the JobSet')
  parser.add_argument(
    '--image', required=True, help='image that the Dockerfile makes; see docs/gke.md'
  )
  parser.add_argument('--namespace', default='default')
  parser.add_argument(
    '--tpu', help='gke-tpu-accelerator of the node pool, such as tpu-v5-lite-podslice'
  )
  parser.add_argument('--topology', help='topology of a slice, such as 4x4 or 2x2x4')
  parser.add_argument('--chips_per_host', type=positive, help='chips of a TPU host; default: 4')
  parser.add_argument('--slices', type=positive, help='TPU slices; default: 1')
  parser.add_argument(
    '--min_slices', type=positive, help='watch the run, and go on with this many slices or more'
  )
  parser.add_argument('--gpu', help='gke-accelerator of the node pool, such as nvidia-h100-80gb')
  parser.add_argument('--gpus_per_node', type=positive, help='GPUs of a node; default: 8')
  parser.add_argument('--nodes', type=positive, help='GPU nodes; default: 1')
  parser.add_argument('--min_nodes', type=positive, help='the same for GPU nodes')
  parser.add_argument(
    '--patience',
    type=positive,
    default=900,
    help='seconds without a node after which a slice or a node counts as lost',
  )
  parser.add_argument(
    '--poll', type=positive, default=30, help='seconds between two looks at a watched run'
  )
  parser.add_argument('--spot', action='store_true', help='run on spot nodes')
  parser.add_argument(
    '--service_account', help='Kubernetes service account with access to the bucket'
  )
  parser.add_argument(
    '--restarts',
    type=not_negative,
    default=10,
    help='restarts after failures; preemptions are not counted',
  )
  parser.add_argument('--grace', type=positive, default=120, help='seconds to save after SIGTERM')
  parser.add_argument('--out', help='file to write the manifest to; default: NAME.yaml')
  parser.add_argument('--dry_run', action='store_true', help='print the manifest and apply nothing')
  options, program = parse(parser, argv)
  if not re.fullmatch(rf'[a-z]([a-z0-9-]{{0,{_MAX_NAME - 2}}}[a-z0-9])?', options.name):
    parser.error(
      f'--name must be at most {_MAX_NAME} lower-case letters, digits and hyphens; got {options.name!r}'
    )
  if (options.tpu is None) == (options.gpu is None):
    parser.error('either --tpu or --gpu must be given')
  kind, other, unit = ('tpu', 'gpu', 'slices') if options.tpu else ('gpu', 'tpu', 'nodes')
  for name, instead in _OPTIONS[other].items():
    if getattr(options, name) is not None:
      parser.error(f'--{name} goes with --{other}, not with --{kind}{instead}')
  for name, default in _DEFAULTS[kind].items():
    if getattr(options, name) is None:
      setattr(options, name, default)
  if options.tpu is not None:
    _check_topology(parser, options)
  if (getattr(options, f'min_{unit}') or 0) > getattr(options, unit):
    parser.error(f'--min_{unit} must be at most --{unit}={getattr(options, unit)}')
  require_bucket(parser, program)
  return options, program


def _check_topology(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
  if not re.fullmatch(r'[1-9][0-9]*(x[1-9][0-9]*){1,2}', options.topology or ''):
    parser.error(
      f'--topology must be positive numbers of chips along each axis, such as 4x4; got {options.topology!r}'
    )
  chips = _chips(options)
  if chips % options.chips_per_host:
    parser.error(
      f'--topology {options.topology} has {chips} chips, which must be a multiple of --chips_per_host; '
      f'got {options.chips_per_host}'
    )


def _chips(options: argparse.Namespace) -> int:
  return math.prod(map(int, options.topology.split('x')))


def _pods(options: argparse.Namespace) -> int:
  """Returns the pods of a job."""
  is_tpu = options.tpu is not None
  return _chips(options) // options.chips_per_host if is_tpu else options.nodes


def manifest(options: argparse.Namespace, program: Sequence[str]) -> dict[str, Any]:
  """Returns the JobSet manifest (jobset.x-k8s.io/v1alpha2).

  A job is one TPU slice, or all GPU nodes. A failed pod fails its job, and the JobSet restarts all jobs: at most
  --restarts times, without counting preemptions.
  """
  is_tpu, pods = options.tpu is not None, _pods(options)
  annotations = {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'}
  job = {
    'parallelism': pods,
    'completions': pods,
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': _CONTAINER,
            'operator': 'In',
            'values': [exit_status.PREEMPTED],
          },
        },
        {
          'action': 'FailJob',
          'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
        },
      ]
    },
    'template': {'spec': _pod(options, program, pods)},
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': options.name,
      'namespace': options.namespace,
      **({'annotations': annotations} if is_tpu and pods > 1 else {}),
    },
    'spec': {
      'failurePolicy': {
        'maxRestarts': options.restarts,
        'rules': [
          {
            'name': 'preempted',
            'action': 'RestartJobSetAndIgnoreMaxRestarts',
            'onJobFailureReasons': ['PodFailurePolicy'],
          }
        ],
      },
      'replicatedJobs': [
        {'name': _JOB, 'replicas': options.slices if is_tpu else 1, 'template': {'spec': job}}
      ],
    },
  }


def _pod(options: argparse.Namespace, program: Sequence[str], pods: int) -> dict[str, Any]:
  if options.tpu is not None:
    selector = {
      'cloud.google.com/gke-tpu-accelerator': options.tpu,
      'cloud.google.com/gke-tpu-topology': options.topology,
    }
    limits = {'google.com/tpu': options.chips_per_host}
  else:
    selector = {'cloud.google.com/gke-accelerator': options.gpu}
    limits = {'nvidia.com/gpu': options.gpus_per_node}
  container = {
    'name': _CONTAINER,
    'image': options.image,
    'command': ['python', '-m', 'recjax.main', *(_literal(argument) for argument in program)],
    'env': [{'name': 'PYTHONUNBUFFERED', 'value': '1'}, *_process_env(options, pods)],
    'resources': {'limits': limits},
  }
  pod = {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': options.grace,
    'nodeSelector': selector,
    'containers': [container],
  }
  if options.spot:
    selector['cloud.google.com/gke-spot'] = 'true'
  if options.service_account is not None:
    pod['serviceAccountName'] = options.service_account
  if options.tpu is not None:  # its device files belong to root, and the image has another user
    container['securityContext'] = {'runAsUser': 0}
  is_copied = flag(program, 'config.checkpoint.memory_every') not in (None, '0')
  if options.gpu is not None or is_copied:
    # NCCL needs more shared memory than the 64 MiB of a container. Copies of the state must outlive the pod, so they
    # are in the memory of the node.
    shared = {'hostPath': {'path': '/dev/shm'}} if is_copied else {'emptyDir': {'medium': 'Memory'}}
    container['volumeMounts'] = [{'name': 'shm', 'mountPath': '/dev/shm'}]
    pod['volumes'] = [{'name': 'shm', **shared}]
  return pod


def _process_env(options: argparse.Namespace, pods: int) -> list[dict[str, Any]]:
  """Returns the variables for recjax.runtime.distributed.

  On TPUs JAX detects the index of the process; on GPUs it is the index of the pod.
  """
  if options.tpu is not None:
    count = pods * options.slices
    return [_env('RECJAX_MULTIHOST', 1), _env('RECJAX_NUM_PROCESSES', count)] if count > 1 else []
  if pods == 1:
    return []
  index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  return [
    _env('RECJAX_COORDINATOR', f'{options.name}-{_JOB}-0-0.{options.name}:{_PORT}'),
    _env('RECJAX_NUM_PROCESSES', pods),
    {'name': 'RECJAX_PROCESS_ID', 'valueFrom': {'fieldRef': {'fieldPath': index}}},
  ]


def _literal(argument: str) -> str:
  """Escapes $(NAME), which Kubernetes would replace by the value of a variable."""
  return argument.replace('$(', '$$(')


def _env(name: str, value: Any) -> dict[str, str]:
  return {'name': name, 'value': str(value)}


if __name__ == '__main__':
  sys.exit(main())
