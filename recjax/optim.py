"""The optimizer: a schedule, clipping and AdamW, from the config."""

from typing import Any

import jax
import optax

from recjax.config import Optim


def schedule(optim: Optim, num_train_steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up from 0, then cosine or linear to 0, or constant."""
  decay_steps = max(num_train_steps - optim.warmup_steps, 1)
  tail = {
    'cosine': optax.cosine_decay_schedule(optim.learning_rate, decay_steps),
    'linear': optax.linear_schedule(optim.learning_rate, 0.0, decay_steps),
    'constant': optax.constant_schedule(optim.learning_rate),
  }[optim.schedule]
  if optim.warmup_steps == 0:
    return tail
  warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)
  return optax.join_schedules([warmup, tail], [optim.warmup_steps])


def decayed(params: Any) -> Any:
  """True where weight decay applies: matrices and tables, not norms and biases."""

  def is_decayed(path, _):
    return str(path[-1].key) not in ('scale', 'bias')

  return jax.tree_util.tree_map_with_path(is_decayed, params)


def optimizer(optim: Optim, num_train_steps: int) -> optax.GradientTransformation:
  """Clipping by the global norm (where clip_norm > 0), then AdamW (Loshchilov & Hutter, 2019)."""
  adamw = optax.adamw(
    schedule(optim, num_train_steps),
    b1=optim.b1,
    b2=optim.b2,
    eps=optim.eps,
    weight_decay=optim.weight_decay,
    mask=decayed,
  )
  if optim.clip_norm == 0:
    return adamw
  return optax.chain(optax.clip_by_global_norm(optim.clip_norm), adamw)
