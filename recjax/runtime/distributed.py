"""Distributed start-up, and communication between the processes of a run.

A launcher sets these environment variables for each process:

  RECJAX_COORDINATOR     host:port of process 0
  RECJAX_NUM_PROCESSES   number of processes in the run
  RECJAX_PROCESS_ID      index of this process, from 0
  RECJAX_MULTIHOST=1     instead of the above: JAX detects the other processes.
                         RECJAX_NUM_PROCESSES may then give their expected number.

Without them, srun, mpirun and TPU pods on GKE are detected by their own variables. If a launcher started
several processes, none of them trains alone.
"""

import collections
import json
import logging
import os
import socket
import sys
import threading
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # its client has no public name

from recjax.runtime import files, watchdog
from recjax.schema.run import Hosts

log = logging.getLogger(__name__)

_VARIABLES = ('RECJAX_COORDINATOR', 'RECJAX_NUM_PROCESSES', 'RECJAX_PROCESS_ID')
_ADVICE = f'set {", ".join(_VARIABLES)} in each process, or use a launcher of launch/'
_EXTRA_SECONDS = 60  # added to JAX's own timeouts: ours expire first and have better messages

# Variable with the number of processes -> (launcher, whether JAX detects that launcher).
_COUNTS = {
  'SLURM_NTASKS': ('srun', True),
  'OMPI_COMM_WORLD_SIZE': ('mpirun', True),
  'PMI_SIZE': ('mpiexec', False),
  'WORLD_SIZE': ('torchrun', False),
}

_barrier_timeout = Hosts.barrier_timeout
_exchanges = collections.Counter()  # number of exchanges of this process, by topic


def initialize(hosts: Hosts | None = None) -> None:
  """Joins the run that the environment describes, or starts a run of one process; starts the watchdog.

  Call it once, before anything else uses a JAX device.

  Args:
    hosts: the timeouts; None: the defaults.

  Raises:
    ValueError: the variables are incomplete or not numbers, or JAX sees another number of processes.
    ConnectionError: the processes cannot join. If they still wait after `hosts.start_timeout`, the process
      ends with a message and status 1.
  """
  global _barrier_timeout
  hosts = hosts or Hosts()
  _barrier_timeout = hosts.barrier_timeout
  expected = _number('RECJAX_NUM_PROCESSES')
  if os.environ.get('RECJAX_MULTIHOST') == '1':
    _join(hosts)
  elif any(name in os.environ for name in _VARIABLES):
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
      raise ValueError(
        f'{", ".join(_VARIABLES)} must be set together; missing: {", ".join(missing)}'
      )
    process = _number('RECJAX_PROCESS_ID')
    if not 0 <= process < expected:
      raise ValueError(f'RECJAX_PROCESS_ID must be in [0, {expected}); got {process}')
    # In a Slurm job, JAX's detection would also select devices by Slurm's variables.
    place = (os.environ['RECJAX_COORDINATOR'], expected, process)
    _join(hosts, *place, cluster_detection_method='deactivate')
  elif (launched := _launched()) is not None:
    expected = launched
    _join(hosts)
  limits = [x for x in (hosts.step_timeout, hosts.phase_timeout) if x > 0]
  state, timeout = jax_distributed.global_state, hosts.heartbeat_timeout
  place = (state.client, state.process_id, state.num_processes)
  watchdog.start(*place, timeout, shortest_limit=min([timeout, *limits]))
  _check_count(expected)
  exchange('start', '', hosts.start_timeout, '--config.hosts.start_timeout')


def _number(name: str) -> int | None:
  value = os.environ.get(name)
  if value is None:
    return None
  if not value.isdecimal():
    raise ValueError(f'{name} must be a number, 0 or more; got {value!r}')
  return int(value)


def _launched() -> int | None:
  """Returns the number of processes that another system's launcher started; None if only this one."""
  # A batch script sets SLURM_NTASKS too, although it runs the program once, without srun.
  counts = [
    name for name in _COUNTS if name != 'SLURM_NTASKS' or 'SLURM_STEP_NODELIST' in os.environ
  ]
  for name in counts:
    launcher, is_known_to_jax = _COUNTS[name]
    count = _number(name) or 1
    if count > 1 and not is_known_to_jax:
      raise ValueError(
        f'{launcher} ({name}={count}) must give the address of process 0, or {count} runs of one process '
        f'would start; {_ADVICE}'
      )
    if count > 1:
      return count
  slice_hosts = len(os.environ.get('TPU_WORKER_HOSTNAMES', '').split(','))
  count = slice_hosts * (_number('MEGASCALE_NUM_SLICES') or 1)
  return count if count > 1 else None


def _join(hosts: Hosts, *place: Any, **options: Any) -> None:
  """Initializes jax.distributed with our timeouts and error messages.

  Args:
    hosts: the timeouts.
    *place: address of process 0, number of processes, index of this process. Empty: JAX detects them.
    **options: further arguments of `jax.distributed.initialize`.
  """
  timer = threading.Timer(hosts.start_timeout, _exit_unjoined, [hosts.start_timeout])
  timer.daemon = True
  timer.start()
  if place:
    log.info('joining the run at %s as process %d of %d', place[0], place[2], place[1])
  try:
    jax.distributed.initialize(
      *place,
      initialization_timeout=int(hosts.start_timeout) + _EXTRA_SECONDS,
      heartbeat_timeout_seconds=int(hosts.heartbeat_timeout) + _EXTRA_SECONDS,
      shutdown_timeout_seconds=int(hosts.barrier_timeout),
      **options,
    )
  except (RuntimeError, ValueError, OSError, KeyError) as error:
    raise ConnectionError(
      f'{_describe_process()} could not join the run: {error}; {_ADVICE}'
    ) from error
  finally:
    timer.cancel()


def _describe_process() -> str:
  """Returns index and host of this process and the address of process 0, as far as they are known."""
  state = jax_distributed.global_state
  if state.coordinator_address is None:
    return f'the process on {socket.gethostname()}'
  place = f'process {state.process_id} of {state.num_processes} on {socket.gethostname()}'
  return f'{place} (address of process 0: {state.coordinator_address})'


def _exit_unjoined(seconds: float) -> None:
  """Ends this process after the start timeout, with the likely cause."""
  state = jax_distributed.global_state
  if state.coordinator_address is None:
    why = 'JAX did not detect the address of process 0'
  else:
    host, _, port = state.coordinator_address.rpartition(':')
    try:
      socket.create_connection((host, int(port)), timeout=5).close()
      why = 'process 0 answers, so other processes are missing: see their logs'
    except OSError as error:
      why = f'process 0 does not answer ({error}): it did not start, or a firewall blocks the port'
  print(
    f'{_describe_process()} could not join the run in {seconds:.0f} s '
    f'(--config.hosts.start_timeout): {why}',
    file=sys.__stderr__,
    flush=True,
  )
  os._exit(1)


def _check_count(expected: int | None) -> None:
  count = jax.process_count()
  if expected is not None and count != expected:
    raise ValueError(
      f'the run must have the {expected} processes that its launcher started; JAX sees {count}'
    )
  if count > 1 and jax_distributed.global_state.client is None:
    raise ValueError(
      f'the {count} processes that JAX sees must join; set RECJAX_MULTIHOST=1 in each, or use launch.tpu'
    )


def is_host0() -> bool:
  """Returns whether this is process 0, which writes logs, metrics and reports."""
  return jax.process_index() == 0


def exchange(
  topic: str,
  text: str,
  timeout_seconds: float | None = None,
  limit: str = '--config.hosts.barrier_timeout',
) -> list[str]:
  """Gathers one text from every process.

  Uses no device, so a background thread may call it during training. All processes must make the same number
  of calls for each topic, each from one thread at a time.

  Args:
    topic: name of the point in the program.
    text: text of this process.
    timeout_seconds: how long to wait for the other processes; None: `hosts.barrier_timeout`.
    limit: the flag that sets the timeout, for the message.

  Returns:
    The texts in the order of the processes.

  Raises:
    TimeoutError: a process did not call it in time; the message names it.
  """
  if jax.process_count() == 1:
    return [text]
  seconds = _barrier_timeout if timeout_seconds is None else timeout_seconds
  client, me = jax_distributed.global_state.client, jax.process_index()
  _exchanges[topic] += 1
  folder = f'recjax/{topic}/{_exchanges[topic]}/'
  client.key_value_set(f'{folder}{me}', text)
  try:
    client.wait_at_barrier(folder, int(seconds * 1000))
    texts = _read(client, folder)
  except jax.errors.JaxRuntimeError as error:
    missing = sorted(set(range(jax.process_count())) - set(_read(client, folder)))
    where = [f'\n  {watchdog.describe(process)}' for process in missing]
    raise TimeoutError(
      f'process {", ".join(map(str, missing)) or "?"} did not reach {topic!r} within {seconds:.0f} s '
      f'({limit}); {jax.process_count() - len(missing)} of '
      f'{jax.process_count()} reached it{"".join(where)}'
    ) from error
  # All processes reached this exchange, so all of them have read the texts of the previous one.
  client.key_value_delete(f'recjax/{topic}/{_exchanges[topic] - 1}/{me}')
  return [texts[process] for process in range(jax.process_count())]


def _read(client: Any, folder: str) -> dict[int, str]:
  return {int(key.rpartition('/')[2]): text for key, text in client.key_value_dir_get(folder)}


def barrier(name: str) -> None:
  """Waits until every process has reached this point.

  Raises:
    TimeoutError: a process did not reach it within `hosts.barrier_timeout`; the message names it.
  """
  exchange(name, '')


def from_host0(topic: str, value: Any) -> Any:
  """Returns process 0's JSON value in every process."""
  return json.loads(exchange(topic, json.dumps(value) if is_host0() else '')[0])


def check_same(topic: str, values: dict[str, Any]) -> None:
  """Checks that all processes have the same JSON values.

  Args:
    topic: name of the values in the message, such as 'config'.
    values: by name; nested dictionaries are compared key by key. The order of keys must be the same too: it
      decides which optimizer group matches and which stage comes first.

  Raises:
    ValueError: a process differs from process 0; the message names the keys and both values.
  """
  texts = exchange(topic, json.dumps(files.flat(values)))
  for process, text in enumerate(texts):
    if text != texts[0]:
      raise ValueError(
        f'all processes must have the same {topic}; process {process} differs from process 0 in '
        f'{_difference(json.loads(text), json.loads(texts[0]))}'
      )


def _difference(other: dict[str, Any], first: dict[str, Any]) -> str:
  """Describes how two different flat dictionaries differ: in values, or only in the order of keys."""
  different = sorted(k for k in other.keys() | first.keys() if other.get(k) != first.get(k))
  if different:
    return ', '.join(f'{k} ({other.get(k)!r} instead of {first.get(k)!r})' for k in different)
  pair = next(pair for pair in zip(other, first, strict=True) if pair[0] != pair[1])
  place = os.path.commonpath([name.replace('.', '/') for name in pair]).replace('/', '.')
  return f'the order of {place or "the values"} ({pair[0]} instead of {pair[1]})'
