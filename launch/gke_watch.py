"""Watches a JobSet, and replaces it by a smaller one if some of its pods find no node.

A JobSet cannot be changed, and it restarts all of its jobs at their full number. So where a slice or a node does not come
back, the pods of the others wait for it without end.
"""

import argparse
from collections.abc import Callable, Sequence
import datetime
import json
import subprocess
import sys
import time

from launch.options import usable_hosts

_LABEL = 'jobset.sigs.k8s.io'


def watch(
  options: argparse.Namespace,
  program: Sequence[str],
  apply: Callable[[], int],
  shape: tuple[int, int],
) -> int:
  """Applies the JobSet, waits for its end, and makes it smaller when needed.

  Args:
    options: the options of launch.gke; `slices` or `nodes` is changed.
    program: the arguments of the program.
    apply: writes and applies the manifest of the options; returns kubectl's exit status.
    shape: processes of each slice or node, and devices of each process.

  Returns:
    0 if the JobSet completed; 1 if it failed, is gone, or cannot become smaller; kubectl's status if it failed.
  """
  unit = 'slices' if options.tpu is not None else 'nodes'
  while True:
    if status := apply():
      return status
    state, missing = _wait(options)
    if state != 'waits':
      _say(f'the JobSet {options.name} {state}')
      return 0 if state == 'completed' else 1
    count = getattr(options, unit)
    fewer = _fewer(options, program, count - missing, shape, getattr(options, f'min_{unit}'))
    if fewer is None:
      return 1
    _say(f'{missing} of {count} {unit} found no node; the run goes on with {fewer}')
    command = ['kubectl', 'delete', 'jobset', options.name, f'--namespace={options.namespace}']
    if status := subprocess.run(command, check=False).returncode:
      return status
    setattr(options, unit, fewer)


def _wait(options: argparse.Namespace) -> tuple[str, int]:
  """Returns how the JobSet ended; or 'waits', and how many slices or nodes have had no node for too long."""
  while True:
    jobset = _get(options, 'jobset', options.name)
    if jobset is None:
      return 'is gone', 0
    for condition in jobset.get('status', {}).get('conditions', ()):
      if condition['status'] == 'True' and condition['type'] in ('Completed', 'Failed'):
        return condition['type'].lower(), 0
    pods = _get(options, 'pods', f'--selector={_LABEL}/jobset-name={options.name}') or {}
    waiting = [
      pod for pod in pods.get('items', ()) if _seconds_without_node(pod) > options.patience
    ]
    if waiting:
      # A slice is a job; a node is a pod.
      label = f'{_LABEL}/job-index' if options.tpu is not None else f'{_LABEL}/pod'
      names = {
        pod['metadata'].get('labels', {}).get(label, pod['metadata']['name']) for pod in waiting
      }
      return 'waits', len(names)
    time.sleep(options.poll)


def _seconds_without_node(pod: dict) -> float:
  if pod['status'].get('phase') != 'Pending' or pod.get('spec', {}).get('nodeName'):
    return 0.0
  created = datetime.datetime.fromisoformat(pod['metadata']['creationTimestamp'])
  return (datetime.datetime.now(datetime.UTC) - created).total_seconds()


def _get(options: argparse.Namespace, *what: str) -> dict | None:
  """Returns the answer of kubectl; None: there is no such thing. An unreachable cluster is asked again."""
  command = ['kubectl', 'get', *what, f'--namespace={options.namespace}', '--output=json']
  while True:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
      return json.loads(done.stdout)
    if 'NotFound' in done.stderr:
      return None
    _say(f'{done.stderr.strip()}; asking again')
    time.sleep(options.poll)


def _fewer(
  options: argparse.Namespace,
  program: Sequence[str],
  left: int,
  shape: tuple[int, int],
  least: int,
) -> int | None:
  """Returns the number to go on with; None: the run cannot go on, which is said."""
  found, why = usable_hosts(program, left, *shape)
  if found is not None and found < least:
    found, why = None, f'the run could go on with {found}, less than the minimum {least}'
  if found is None:
    _say(f'{why}; the JobSet {options.name} keeps waiting')
  return found


def _say(message: str) -> None:
  print(f'launch.gke: {message}', file=sys.stderr, flush=True)
