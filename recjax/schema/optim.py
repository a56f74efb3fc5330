"""The sections of the config that say how parameters are trained; see `recjax.config`."""

import dataclasses

from recjax.schema.checks import check, check_choice, check_pattern, check_positive

SCHEDULES = ('cosine', 'linear', 'constant', 'inverse_sqrt')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Parameters that are trained differently; of several groups that match, the first one counts.

  Beside adapters (`model.lora_rank`) only those parameters are trained that a group names: 'tables/sid',
  most of all.
  """

  pattern: str  # a regular expression, searched in paths such as 'layers/attention/q/kernel'
  learning_rate: float = 1.0  # a factor on the run's
  weight_decay: float = 1.0  # a factor on the run's
  frozen: bool = False  # no gradient, no update, no moments

  def __post_init__(self):
    field = 'optim.groups.<name>'
    check_pattern(self.pattern, f'{field}.pattern')
    check(
      self.learning_rate > 0,
      'a factor on the learning rate must be positive (frozen=True trains nothing)',
      self.learning_rate,
      f'{field}.learning_rate',
    )
    check(
      self.weight_decay >= 0,
      'a factor on the weight decay must not be negative',
      self.weight_decay,
      f'{field}.weight_decay',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
  optimizer: str = 'adamw'  # adamw | adafactor
  learning_rate: float = 1e-3
  schedule: str = 'cosine'  # cosine | linear | constant | inverse_sqrt, after the warm-up
  warmup_steps: int = 100
  weight_decay: float = 0.1
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  parameter_scale: bool = True  # adafactor: steps in proportion to a parameter's own size, as T5
  clip_norm: float = 1.0  # of the gradient of all trained parameters; 0: no clipping
  ema_decay: float = 0.0  # of the averaged parameters, which are evaluated and exported; 0: none
  groups: dict[str, Group] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    check_positive(self, 'optim.', 'learning_rate', 'eps')
    check_choice(self.optimizer, ('adamw', 'adafactor'), 'optim.optimizer')
    check_choice(self.schedule, SCHEDULES, 'optim.schedule')
    for name in ('warmup_steps', 'weight_decay', 'clip_norm'):
      value = getattr(self, name)
      check(value >= 0, f'optim.{name} must not be negative', value, f'optim.{name}')
    for name in ('b1', 'b2', 'ema_decay'):
      value = getattr(self, name)
      check(0 <= value < 1, f'optim.{name} must be in [0, 1)', value, f'optim.{name}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One stage of a run; what it does not set is the run's."""

  num_train_steps: int
  mixture: tuple[str, ...] = ()  # the components that are active; empty: all
  learning_rate: float | None = None
  schedule: str | None = None
  warmup_steps: int | None = None
  groups: dict[str, Group] = dataclasses.field(default_factory=dict)  # before those of optim.groups

  def __post_init__(self):
    check_positive(self, 'stages.<name>.', 'num_train_steps')
