"""Logs metrics and speed of a training; stops it at a loss that is not finite."""

import logging
import math
from typing import Any

import jax

from recjax.data.loader import Stream
from recjax.runtime import device, goodput
from recjax.schema.run import Training
from recjax.workdir.metrics_file import Writer

log = logging.getLogger(__name__)

_SHOWN = ('reward', 'loss')  # in the log; the first that a training has


class Progress:
  """Logs and writes the metrics of a step after the next step was dispatched, so that devices never wait."""

  def __init__(self, config: Training, writer: Writer, stream: Stream):
    self._config = config
    self._writer = writer
    self._examples, self._epochs = stream.examples_per_batch, stream.mixture.epochs
    self._pending: tuple[int, int, dict[str, Any]] | None = None
    self._begin_window()

  def step(self, step: int, examples_seen: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of a step that was just dispatched, and writes those of the previous step.

    Args:
      step: the number of the step, from 1.
      examples_seen: position in the stream before the step.
      metrics: scalars on the devices.

    Raises:
      FloatingPointError: loss or gradient norm of the previous step is not finite.
    """
    self.flush()
    self._pending = (step, examples_seen, metrics)

  def flush(self) -> None:
    """Waits for the pending step and writes its metrics.

    Raises:
      FloatingPointError: its loss or gradient norm is not finite.
    """
    if self._pending is None:
      return
    step, examples_seen, metrics = self._pending
    self._pending = None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    seen = examples_seen + self._examples
    values['epoch'] = self._epochs(seen)
    self._check_finite(step, examples_seen, values)
    self._window_steps += 1
    self._window_tokens += values['tokens']
    if step % self._config.log_every_steps == 0 or step == self._config.num_train_steps:
      values |= self._speeds()
      self._log(step, values)
      self._begin_window()
    self._writer.write(step, values | {'examples_seen': seen})
    goodput.done(step)

  def _check_finite(self, step: int, examples_seen: int, values: dict[str, float]) -> None:
    if not math.isfinite(values['loss']) or not math.isfinite(values['grad_norm']):
      raise FloatingPointError(
        f'loss and gradient norm must be finite; got {values["loss"]} and {values["grad_norm"]} at step '
        f'{step}, batch of examples {examples_seen} to {examples_seen + self._examples}. The last checkpoint '
        'is undamaged; inspect that batch, or set a lower --config.optim.learning_rate'
      )

  def _begin_window(self) -> None:
    self._window_start, self._window_steps, self._window_tokens = goodput.seconds(), 0, 0.0

  def _speeds(self) -> dict[str, float]:
    """Returns the speed since the last log line; compiling, saving and evaluating do not count."""
    now = goodput.seconds()
    waited = now['input_wait'] - self._window_start['input_wait']
    seconds = max(now['steps'] - self._window_start['steps'] + waited, 1e-9)
    return {
      'steps_per_sec': self._window_steps / seconds,
      'tokens_per_sec': self._window_tokens / seconds,
      'input_wait_share': waited / seconds,
      'goodput': now['steps'] / sum(now.values()),
      'compile_seconds': now['compile'],
      **device.peaks(),
    }

  def _log(self, step: int, values: dict[str, float]) -> None:
    total, speed = self._config.num_train_steps, values['steps_per_sec']
    left = (total - step) / speed
    shown = next(name for name in _SHOWN if name in values)
    log.info(
      'step %d/%d  epoch %.1f  %s %.4f  %.2f steps/s  %s tokens/s  ETA %d:%02d:%02d',
      *(step, total, values['epoch'], shown, values[shown], speed),
      f'{values["tokens_per_sec"]:,.0f}',
      *(left // 3600, left % 3600 // 60, left % 60),
    )
