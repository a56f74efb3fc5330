"""Starting as one of several processes, and the few things that they do together.

A launcher tells each process its place in the environment:

  RECJAX_COORDINATOR     host:port of process 0
  RECJAX_NUM_PROCESSES   how many processes the run has
  RECJAX_PROCESS_ID      which of them this is, from 0
  RECJAX_MULTIHOST=1     instead: let JAX find the others (TPU pods, Slurm, Kubernetes);
                         RECJAX_NUM_PROCESSES may then say how many there must be
"""

import collections
import os

import jax
from jax._src import distributed as jax_distributed  # its client has no public name
from jax.experimental import multihost_utils

_PLACE = ('RECJAX_COORDINATOR', 'RECJAX_NUM_PROCESSES', 'RECJAX_PROCESS_ID')

_exchanges = collections.Counter()  # how often this process took part in each topic


def initialize() -> None:
  """Joins the run that the environment describes; without its variables the run has one process.

  Call it once, before anything else touches a JAX device.

  Raises:
    ValueError: the variables are incomplete or not numbers.
    RuntimeError: the processes do not find each other, or another number of them than expected.
  """
  expected = _number('RECJAX_NUM_PROCESSES')
  if os.environ.get('RECJAX_MULTIHOST') == '1':
    jax.distributed.initialize()
  elif any(name in os.environ for name in _PLACE):
    missing = [name for name in _PLACE if name not in os.environ]
    if missing:
      raise ValueError(f'{", ".join(_PLACE)} must be set together; missing: {", ".join(missing)}')
    process_id = _number('RECJAX_PROCESS_ID')
    if not 0 <= process_id < expected:
      raise ValueError(f'RECJAX_PROCESS_ID must be in [0, {expected}); got {process_id}')
    jax.distributed.initialize(os.environ['RECJAX_COORDINATOR'], expected, process_id)
  if expected is not None and jax.process_count() != expected:
    raise RuntimeError(
      f'the run must have RECJAX_NUM_PROCESSES={expected} processes; JAX sees {jax.process_count()}'
    )


def is_host0() -> bool:
  """Whether this process writes what is written once: logs, reports, metrics."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process has come here; all must give the same name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def exchange(topic: str, text: str, timeout_seconds: float = 1200) -> list[str]:
  """The texts of all processes in their order; each gives its own.

  It touches no device, so a thread beside the training may call it. All processes must exchange on a topic
  equally often, and each from one thread at a time.

  Raises:
    TimeoutError: a process gave nothing in time; the message names it.
  """
  if jax.process_count() == 1:
    return [text]
  client, me = jax_distributed.global_state.client, jax.process_index()
  _exchanges[topic] += 1
  count = _exchanges[topic]
  client.key_value_set(f'recjax/{topic}/{count}/{me}', text)
  texts = []
  for process in range(jax.process_count()):
    try:
      texts.append(
        client.blocking_key_value_get(
          f'recjax/{topic}/{count}/{process}', int(timeout_seconds * 1000)
        )
      )
    except jax.errors.JaxRuntimeError as error:
      raise TimeoutError(f'process {process} gave no {topic!r} to process {me}: {error}') from error
  # Whoever gave a text to this exchange has read all of the one before.
  client.key_value_delete(f'recjax/{topic}/{count - 1}/{me}')
  return texts


def _number(name: str) -> int | None:
  value = os.environ.get(name)
  if value is None:
    return None
  if not value.isdecimal():
    raise ValueError(f'{name} must be a number, 0 or more; got {value!r}')
  return int(value)
