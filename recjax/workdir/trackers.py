"""Sends metrics to Weights & Biases and MLflow as well, if `config.log_to` names them and they are installed.

Each tracker works in a thread of its own, so that a slow server does not delay a step. A tracker that fails is
switched off with one warning; the training goes on. trackers.json in the folder of the training holds the ids of
the runs, so that a resume continues them. Where they are sent is set as usual: WANDB_PROJECT, WANDB_MODE,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, …
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.util
import json
import logging
import math
import os
import queue
import threading
import time
from typing import Protocol
import uuid

from etils import epath

from recjax.config import Config
from recjax.runtime.files import flat, write_whole

FILE = 'trackers.json'
PROJECT = 'recjax'  # default name of the project or the experiment
_CLOSE_S = 60.0  # longest wait for a tracker at the end, or before a preempted process ends
_WAITING = 10_000  # steps that may wait for a slow tracker
_PARAMS = 100  # parameters and metrics of one request to MLflow
_METRICS = 1000

log = logging.getLogger(__name__)


class Tracker(Protocol):
  """A run of a tracking service. All calls come from one thread."""

  id: str

  def log(self, step: int, values: Mapping[str, float]) -> None: ...

  def close(self, is_complete: bool) -> None: ...


def check(names: tuple[str, ...]) -> None:
  """Raises a ValueError unless the packages of these trackers are installed."""
  for name in names:
    spec = importlib.util.find_spec(name)
    # A spec without origin is a folder of that name, such as ./wandb.
    if spec is None or spec.origin is None:
      raise ValueError(
        f'the package {name} must be installed, because log_to names it; it is not. Run `pip install {name}`, or '
        'set --config.log_to="()"'
      )


class _Wandb:
  """A run of Weights & Biases. Steps are values of the metric `step`: a resume may repeat some of them."""

  def __init__(self, id_: str | None, name: str, folder: epath.Path, config: Config):
    import wandb  # only if the config names it

    self.id = id_ or uuid.uuid4().hex[:12]
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT') or PROJECT,
      id=self.id,
      name=name,
      resume='allow',
      dir=os.fspath(folder),
      config=flat(config.to_dict()),
      tags=_tags(config),
    )
    self._run.define_metric('*', step_metric='step')

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({'step': step, **values})

  def close(self, is_complete: bool) -> None:
    self._run.finish(exit_code=0 if is_complete else 1)


class _Mlflow:
  """A run of MLflow. Its names allow no @: recall@10 appears as recall_10."""

  def __init__(self, id_: str | None, name: str, folder: epath.Path, config: Config):
    import mlflow  # only if the config names it

    del folder
    self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
    if id_ is not None:
      self.id = id_
      self._client.update_run(id_, status='RUNNING')
      return
    title = os.environ.get('MLFLOW_EXPERIMENT_NAME') or PROJECT
    known = self._client.get_experiment_by_name(title)
    experiment = known.experiment_id if known else self._client.create_experiment(title)
    tags = {'tags': ', '.join(_tags(config))}
    self.id = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
    fields = flat(config.to_dict()).items()
    params = [self._entities.Param(key, str(value)[:500]) for key, value in fields]
    for start in range(0, len(params), _PARAMS):
      self._client.log_batch(self.id, params=params[start : start + _PARAMS])

  def log(self, step: int, values: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    metrics = [
      self._entities.Metric(key.replace('@', '_'), value, now, step)
      for key, value in values.items()
    ]
    for start in range(0, len(metrics), _METRICS):
      self._client.log_batch(self.id, metrics=metrics[start : start + _METRICS])

  def close(self, is_complete: bool) -> None:
    self._client.set_terminated(self.id, 'FINISHED' if is_complete else 'KILLED')


_TRACKERS: dict[str, Callable[..., Tracker]] = {'wandb': _Wandb, 'mlflow': _Mlflow}


def _tags(config: Config) -> list[str]:
  model = config.model
  return [config.data.name, model.family, *([model.size] if model.size else [])]


class _Worker:
  """The thread of one tracker."""

  def __init__(self, name: str, start: Callable[[], Tracker]):
    self._name, self._start = name, start
    self._queue: queue.Queue = queue.Queue(_WAITING)
    self._is_off = threading.Event()
    self._thread = threading.Thread(target=self._work, name=f'tracker {name}', daemon=True)
    self._thread.start()

  def put(self, call: tuple) -> None:
    if self._is_off.is_set():
      return
    try:
      self._queue.put_nowait(call)
    except queue.Full:
      self._switch_off(f'it is more than {_WAITING} steps behind')

  def join(self) -> None:
    self._thread.join(_CLOSE_S)
    if self._thread.is_alive():
      self._switch_off(f'it did not finish within {_CLOSE_S:.0f} s')

  def _work(self) -> None:
    try:
      tracker = self._start()
      while not self._is_off.is_set():
        method, *arguments = self._queue.get()
        getattr(tracker, method)(*arguments)
        if method == 'close':
          return
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a foreign package must never stop a training
      lines = f'{type(error).__name__}: {error}'.strip().splitlines()
      self._switch_off(lines[0])

  def _switch_off(self, reason: str) -> None:
    if not self._is_off.is_set():
      self._is_off.set()
      log.warning(
        '%s gets no more metrics of this start (%s); the training goes on', self._name, reason
      )


class Trackers:
  """The trackers of one training; without names every call does nothing."""

  def __init__(self, names: tuple[str, ...], folder: epath.Path, title: str, config: Config):
    """Starts a thread for each tracker; returns at once.

    Args:
      names: trackers of `config.log_to`.
      folder: folder of the training, which exists.
      title: name of new runs.
      config: config of the training.
    """
    self._path, self._lock = folder / FILE, threading.Lock()
    self._ids = _read_ids(self._path)

    def starting(name: str) -> Callable[[], Tracker]:
      def start() -> Tracker:
        tracker = _TRACKERS[name](self._ids.get(name), title, folder, config)
        self._keep(name, tracker.id)
        return tracker

      return start

    self._workers = [_Worker(name, starting(name)) for name in names]

  def _keep(self, name: str, id_: str) -> None:
    with self._lock:
      if self._ids.get(name) != id_:
        self._ids[name] = id_
        write_whole(self._path, json.dumps(self._ids, indent=2) + '\n')

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Hands the finite metrics of a step to every tracker."""
    finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    for worker in self._workers:
      worker.put(('log', step, finite))

  def close(self, is_complete: bool) -> None:
    """Waits until everything is sent, at most a minute for each tracker."""
    for worker in self._workers:
      worker.put(('close', is_complete))
    for worker in self._workers:
      worker.join()


def _read_ids(path: epath.Path) -> dict[str, str]:
  """Returns the ids of the runs; empty if the file is absent or damaged."""
  try:
    ids = json.loads(path.read_text()) if path.exists() else {}
  except ValueError:
    return {}
  return {k: v for k, v in ids.items() if isinstance(v, str)} if isinstance(ids, dict) else {}


@contextlib.contextmanager
def opened(config: Config, folder: epath.Path, enabled: bool) -> Iterator[Trackers]:
  """Yields the trackers of a training, and closes them however it ends.

  Args:
    config: config of the training; `log_to` names the trackers.
    folder: folder of the training.
    enabled: False on processes other than process 0.
  """
  parts = folder.parts[-3:] if folder.parent.name == 'stages' else folder.parts[-1:]
  title = '/'.join(part for part in parts if part != 'stages')
  trackers = Trackers(config.log_to if enabled else (), folder, title, config)
  is_complete = False
  try:
    yield trackers
    is_complete = True
  finally:
    trackers.close(is_complete)


def log_test(config: Config, folder: epath.Path, step: int, metrics: Mapping[str, float]) -> None:
  """Sends the test metrics of the best checkpoint, as test/<name>, to the runs of a finished training.

  Args:
    config: config of the run; without `log_to` nothing is done.
    folder: folder of the training; of several stages, the last one.
    step: step of the checkpoint.
    metrics: by name.
  """
  if config.log_to:
    with opened(config, folder, True) as trackers:
      trackers.log(step, {f'test/{name}': value for name, value in metrics.items()})
