"""Profiler traces of chosen steps, for TensorBoard's profile plugin, XProf and ui.perfetto.dev."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import os

from etils import epath
import jax

from recjax.schema.run import Profile

FOLDER = 'profile'

log = logging.getLogger(__name__)


class Profiler:
  """Traces the steps that `profile.steps` names; a context manager around the steps of a training.

  Training goes on without a trace, and a warning says why, where the profiler fails.

  Args:
    config: which steps, on which hosts, into which folder.
    workdir: of the training; the folder's default lies in it.
  """

  def __init__(self, config: Profile, workdir: epath.PathLike):
    is_here = config.hosts == 'all' or jax.process_index() == 0
    self._steps = range(config.steps[0], config.steps[1] + 1) if config.steps and is_here else ()
    self._folder = config.folder or os.path.join(os.fspath(workdir), FOLDER)
    if config.hosts == 'all' and jax.process_count() > 1:
      # The profiler names files by machine, and several processes may share one.
      self._folder = os.path.join(self._folder, f'process_{jax.process_index()}')
    self._is_tracing = False

  @contextlib.contextmanager
  def step(self, step: int, wait: Callable[[], None]) -> Iterator[None]:
    """Traces the step inside, if it is one of those.

    Args:
      step: its number.
      wait: waits until the devices have nothing left to do, so that no other step is in the trace.
    """
    if step in self._steps and not self._is_tracing:
      wait()
      self._start()
    if not self._is_tracing:
      yield
      return
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      yield
      if step == self._steps[-1]:
        wait()
    if step == self._steps[-1]:
      self._stop()

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *_) -> None:
    self._stop()

  def _start(self) -> None:
    try:
      jax.profiler.start_trace(self._folder)
      self._is_tracing = True
    except Exception as error:  # noqa: BLE001 - whatever it is, training does not need it
      self._give_up(error)

  def _stop(self) -> None:
    if not self._is_tracing:
      return
    self._is_tracing = False
    try:
      jax.profiler.stop_trace()
      log.info('profile of steps %d to %d: %s', self._steps[0], self._steps[-1], self._folder)
    except Exception as error:  # noqa: BLE001
      self._give_up(error)

  def _give_up(self, error: Exception) -> None:
    self._steps = ()
    log.warning(
      'no profile in %s: %s: %s; training goes on', self._folder, type(error).__name__, error
    )
