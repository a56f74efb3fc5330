"""Starting as one of several processes, and the few things that they do together.

A launcher tells each process its place in the environment:

  RECJAX_COORDINATOR     host:port of process 0
  RECJAX_NUM_PROCESSES   how many processes the run has
  RECJAX_PROCESS_ID      which of them this is, from 0
  RECJAX_MULTIHOST=1     instead: let JAX find the others;
                         RECJAX_NUM_PROCESSES may then say how many there must be

Without these, srun, mpirun and TPU pods on GKE are noticed by their own variables. A process that a
launcher started as one of several never runs alone.
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

from recjax.runtime import watchdog
from recjax.schema.run import Hosts

log = logging.getLogger(__name__)

_PLACE = ('RECJAX_COORDINATOR', 'RECJAX_NUM_PROCESSES', 'RECJAX_PROCESS_ID')
_HOW_TO_SAY = f'set {", ".join(_PLACE)} in each process, or use a launcher of launch/'
_BACKSTOP = 60  # seconds by which JAX's own limits, whose messages say less, are longer than ours

# Variables of launchers that say how many processes there are, and whether JAX finds the others itself.
_COUNTS = {
  'SLURM_NTASKS': ('srun', True),
  'OMPI_COMM_WORLD_SIZE': ('mpirun', True),
  'PMI_SIZE': ('mpiexec', False),
  'WORLD_SIZE': ('torchrun', False),
}

_barrier_timeout = Hosts.barrier_timeout
_exchanges = collections.Counter()  # how often this process took part in each topic


def initialize(hosts: Hosts | None = None) -> None:
  """Joins the run that the environment describes; where it says nothing, the run has one process.

  Call it once, before anything else touches a JAX device. It starts the watchdog, too.

  Raises:
    ValueError: the variables are incomplete or not numbers, or there are more or fewer processes.
    ConnectionError: the processes cannot join. Where they wait for each other in vain, the process ends
      with a message and status 1 instead.
  """
  global _barrier_timeout
  hosts = hosts or Hosts()
  _barrier_timeout = hosts.barrier_timeout
  expected = _number('RECJAX_NUM_PROCESSES')
  if os.environ.get('RECJAX_MULTIHOST') == '1':
    _join(hosts)
  elif any(name in os.environ for name in _PLACE):
    missing = [name for name in _PLACE if name not in os.environ]
    if missing:
      raise ValueError(f'{", ".join(_PLACE)} must be set together; missing: {", ".join(missing)}')
    process = _number('RECJAX_PROCESS_ID')
    if not 0 <= process < expected:
      raise ValueError(f'RECJAX_PROCESS_ID must be in [0, {expected}); got {process}')
    # Detection would add what a surrounding Slurm job says of the devices.
    place = (os.environ['RECJAX_COORDINATOR'], expected, process)
    _join(hosts, *place, cluster_detection_method='deactivate')
  elif (launched := _launched()) is not None:
    expected = launched
    _join(hosts)
  limits = [x for x in (hosts.step_timeout, hosts.phase_timeout) if x > 0]
  state, silence = jax_distributed.global_state, hosts.heartbeat_timeout
  place = (state.client, state.process_id, state.num_processes)
  watchdog.start(*place, silence, shortest=min([silence, *limits]))
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
  """How many processes a launcher of others started, or None where it is this one alone."""
  # Outside of srun a Slurm job sets SLURM_NTASKS too, and the program runs once.
  counts = [
    name for name in _COUNTS if name != 'SLURM_NTASKS' or 'SLURM_STEP_NODELIST' in os.environ
  ]
  for name in counts:
    launcher, is_known_to_jax = _COUNTS[name]
    count = _number(name) or 1
    if count > 1 and not is_known_to_jax:
      raise ValueError(
        f'{launcher} ({name}={count}) must say where process 0 is, or {count} runs of one process would '
        f'begin; {_HOW_TO_SAY}'
      )
    if count > 1:
      return count
  slice_hosts = len(os.environ.get('TPU_WORKER_HOSTNAMES', '').split(','))
  count = slice_hosts * (_number('MEGASCALE_NUM_SLICES') or 1)
  return count if count > 1 else None


def _join(hosts: Hosts, *place: Any, **how: Any) -> None:
  """jax.distributed with our limits and messages."""
  timer = threading.Timer(hosts.start_timeout, _give_up, [hosts.start_timeout])
  timer.daemon = True
  timer.start()
  if place:
    log.info('joining the run at %s as process %d of %d', place[0], place[2], place[1])
  try:
    jax.distributed.initialize(
      *place,
      initialization_timeout=int(hosts.start_timeout) + _BACKSTOP,
      heartbeat_timeout_seconds=int(hosts.heartbeat_timeout) + _BACKSTOP,
      shutdown_timeout_seconds=int(hosts.barrier_timeout),
      **how,
    )
  except (RuntimeError, ValueError, OSError, KeyError) as error:
    raise ConnectionError(f'{_who()} could not join the run: {error}; {_HOW_TO_SAY}') from error
  finally:
    timer.cancel()


def _who() -> str:
  """This process and where it is to find process 0, as far as is known by now."""
  state = jax_distributed.global_state
  if state.coordinator_address is None:
    return f'the process on {socket.gethostname()}'
  place = f'process {state.process_id} of {state.num_processes} on {socket.gethostname()}'
  return f'{place} (process 0 is to be at {state.coordinator_address})'


def _give_up(seconds: float) -> None:
  state = jax_distributed.global_state
  if state.coordinator_address is None:
    why = 'JAX did not find out where process 0 is'
  else:
    host, _, port = state.coordinator_address.rpartition(':')
    try:
      socket.create_connection((host, int(port)), timeout=5).close()
      why = 'process 0 answers there, so others are missing: their logs, if any, say why'
    except OSError as error:
      why = f'nothing answers there ({error}): process 0 did not start, or a firewall is between'
  print(
    f'{_who()} could not join the run in {seconds:.0f} s (--config.hosts.start_timeout): {why}',
    file=sys.__stderr__,
    flush=True,
  )
  os._exit(1)


def _check_count(expected: int | None) -> None:
  count = jax.process_count()
  if expected is not None and count != expected:
    raise ValueError(
      f'the run must have the {expected} processes of its launcher; JAX sees {count}'
    )
  if count > 1 and jax_distributed.global_state.client is None:
    raise ValueError(
      f'the {count} processes that JAX sees must join; set RECJAX_MULTIHOST=1 in each, or use launch.tpu'
    )


def is_host0() -> bool:
  """Whether this process writes what is written once: logs, reports, metrics."""
  return jax.process_index() == 0


def exchange(
  topic: str,
  text: str,
  timeout_seconds: float | None = None,
  limit: str = '--config.hosts.barrier_timeout',
) -> list[str]:
  """The texts of all processes in their order; each gives its own.

  It touches no device, so a thread beside the training may call it. All processes must exchange on a topic
  equally often, and each from one thread at a time.

  Args:
    topic: the name of the point in the program.
    text: what this process gives.
    timeout_seconds: how long to wait for the others; None: `hosts.barrier_timeout`.
    limit: what sets that time, for the message.

  Raises:
    TimeoutError: a process gave nothing in time; the message names it.
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
      f'process {", ".join(map(str, missing)) or "?"} did not come to {topic!r} within {seconds:.0f} s '
      f'({limit}); {jax.process_count() - len(missing)} of '
      f'{jax.process_count()} are there{"".join(where)}'
    ) from error
  # Whoever came to this exchange has read all of the one before.
  client.key_value_delete(f'recjax/{topic}/{_exchanges[topic] - 1}/{me}')
  return [texts[process] for process in range(jax.process_count())]


def _read(client: Any, folder: str) -> dict[int, str]:
  return {int(key.rpartition('/')[2]): text for key, text in client.key_value_dir_get(folder)}


def barrier(name: str) -> None:
  """Waits until every process has come here.

  Raises:
    TimeoutError: one did not come within `hosts.barrier_timeout`; the message names it.
  """
  exchange(name, '')


def from_host0(topic: str, value: Any) -> Any:
  """The value, made of what JSON holds, that process 0 gives, in every process."""
  return json.loads(exchange(topic, json.dumps(value) if is_host0() else '')[0])


def check_same(topic: str, values: dict[str, Any]) -> None:
  """Raises a ValueError that names what differs, where a process has other JSON values than process 0."""
  texts = exchange(topic, json.dumps(_flat(values, ''), sort_keys=True))
  for process, text in enumerate(texts):
    if text != texts[0]:
      here, there = json.loads(text), json.loads(texts[0])
      different = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
      raise ValueError(
        f'all processes must have the same {topic}; process {process} differs from process 0 in '
        f'{", ".join(f"{k} ({here.get(k)!r}, there {there.get(k)!r})" for k in different)}'
      )


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    is_section = isinstance(value, dict)
    flat |= _flat(value, f'{prefix}{name}.') if is_section else {prefix + name: value}
  return flat
