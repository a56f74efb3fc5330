"""Profiler traces of selected steps, for XProf, TensorBoard's profile plugin and ui.perfetto.dev."""

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
  """A context manager around training steps that traces those in `profile.steps`.

  If the profiler fails, training continues without a trace, with a warning.

  Args:
    config: the steps, hosts and folder of the trace.
    workdir: folder of the training, which holds the default folder of traces.
  """

  def __init__(self, config: Profile, workdir: epath.PathLike):
    is_traced = config.hosts == 'all' or jax.process_index() == 0
    self._steps = range(config.steps[0], config.steps[1] + 1) if config.steps and is_traced else ()
    self._folder = config.folder or os.path.join(os.fspath(workdir), FOLDER)
    if config.hosts == 'all' and jax.process_count() > 1:
      # The profiler names files by machine, which several processes may share.
      self._folder = os.path.join(self._folder, f'process_{jax.process_index()}')
    self._is_tracing = False

  @contextlib.contextmanager
  def step(self, step: int, wait: Callable[[], None]) -> Iterator[None]:
    """Traces the step inside if it is one of the selected steps.

    Args:
      step: number of the step.
      wait: blocks until the devices are idle, so that the trace holds no other step.
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
    except Exception as error:  # noqa: BLE001 - training does not depend on the profiler
      self._disable(error)

  def _stop(self) -> None:
    if not self._is_tracing:
      return
    self._is_tracing = False
    try:
      jax.profiler.stop_trace()
      log.info('profile of steps %d to %d: %s', self._steps[0], self._steps[-1], self._folder)
    except Exception as error:  # noqa: BLE001
      self._disable(error)

  def _disable(self, error: Exception) -> None:
    self._steps = ()
    log.warning(
      'no profile in %s: %s: %s; training continues', self._folder, type(error).__name__, error
    )
