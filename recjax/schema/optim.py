"""The config sections of optimization: parameter groups, optimizer, loss, stages of a run."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, check, setting
from recjax.schema.grpo import KINDS, SUPERVISED, Grpo
from recjax.schema.model import SID_ROWS

SCHEDULES = ('cosine', 'linear', 'constant', 'inverse_sqrt')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Section):
  """Parameters with their own learning rate, weight decay or freezing.

  The first group whose pattern matches a parameter applies to it, so the order of groups matters. With
  adapters (`model.lora_rank`), a parameter outside the adapters is trained only if a group names it. SID rows
  are trained beside adapters unless a group freezes them (`optim.train_sid_rows`).
  """

  prefix: ClassVar = 'optim.groups.<name>.'

  pattern: str = setting(
    meaning="Searched in parameter paths such as 'layers/attention/q/kernel'; the first matching "
    'group applies.',
    pattern=True,
  )
  learning_rate: float = setting(
    1.0, 'Factor on optim.learning_rate; frozen=True trains nothing.', above=0
  )
  weight_decay: float = setting(1.0, 'Factor on optim.weight_decay.', at_least=0)
  frozen: bool = setting(False, 'No gradient, no update, no optimizer state.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim(Section):
  """The optimizer and its learning rate schedule."""

  prefix: ClassVar = 'optim.'

  optimizer: str = setting('adamw', 'The optimizer.', one_of=('adamw', 'adafactor'))
  learning_rate: float = setting(1e-3, 'Peak learning rate.', above=0)
  schedule: str = setting('cosine', 'Learning rate after the warm-up.', one_of=SCHEDULES)
  warmup_steps: int | None = setting(
    100, 'Steps of linear warm-up. None: a tenth of the steps.', at_least=0
  )
  weight_decay: float = setting(0.1, 'Weight decay (decoupled).', at_least=0)
  b1: float = setting(0.9, 'With adamw: decay rate of the first moment.', at_least=0, below=1)
  b2: float = setting(0.98, 'With adamw: decay rate of the second moment.', at_least=0, below=1)
  eps: float = setting(1e-8, 'With adamw: added to the denominator.', above=0)
  parameter_scale: bool = setting(
    True, "With adafactor: scale steps by each parameter's root mean square, as T5 does."
  )
  clip_norm: float = setting(
    1.0, 'Limit on the norm of the gradient of all trained parameters; 0: no clipping.', at_least=0
  )
  ema_decay: float = setting(
    0.0,
    'Decay rate of averaged parameters, which are evaluated and exported; 0: no averaging.',
    at_least=0,
    below=1,
  )
  train_sid_rows: bool | None = setting(
    None,
    'With adapters: also train the SID rows that no group matches. None: True; a workdir that an earlier '
    'version began keeps False.',
  )
  groups: dict[str, Group] = setting(
    meaning='Parameter groups by name, in order: the first match applies.', factory=dict
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(Section):
  """Terms that are added to the negative log-likelihood of the targets."""

  prefix: ClassVar = 'loss.'

  z_loss: float = setting(
    0.0, "Weight of the squared logarithm of the softmax's denominator.", at_least=0
  )
  label_smoothing: float = setting(
    0.0, "Share of a target's probability that is spread over all classes.", at_least=0, below=1
  )
  item_head: float = setting(
    1.0,
    'With model.item_head: weight of the loss of the head, beside that of the codes (1).',
    at_least=0,
  )
  item_head_sampled_from: int = setting(
    500_000,
    'With model.item_head: items of a catalogue from which on the softmax of training is over a sample.',
    above=0,
  )
  item_head_samples: int = setting(
    8192, 'Items of that sample, drawn uniformly for every micro-batch.', above=0
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Section):
  """One stage of a run. Unset fields keep the values of the run."""

  prefix: ClassVar = 'stages.<name>.'

  kind: str = setting(
    SUPERVISED, 'How the stage trains: on the targets of its mixture, or on rewards.', one_of=KINDS
  )
  num_train_steps: int | None = setting(
    meaning='Steps of the stage. None: from num_epochs, else from the data.', above=0
  )
  num_epochs: float | None = setting(
    None, 'Epochs of the stage instead of num_train_steps, which must then be None.', above=0
  )
  mixture: tuple[str, ...] = setting((), 'Names of the active components; empty: all.')
  learning_rate: float | None = setting(None, 'Peak learning rate.', above=0)
  schedule: str | None = setting(None, 'Learning rate after the warm-up.', one_of=SCHEDULES)
  warmup_steps: int | None = setting(None, 'Steps of linear warm-up.', at_least=0)
  clip_norm: float | None = setting(
    None, 'Limit on the norm of the gradient; 0: no clipping.', at_least=0
  )
  batch_size: int | None = setting(
    None, 'Packed rows per step; in a stage of kind grpo, prompts per step.', above=0
  )
  row_length: int | None = setting(None, 'Tokens of a row.', above=0)
  decoder_row_length: int | None = setting(
    None, 'Encoder–decoder only: tokens of a decoder row.', above=0
  )
  eval_every_steps: int | None = setting(None, 'Steps between evaluations.', above=0)
  checkpoint_every_steps: int | None = setting(None, 'Steps between checkpoints.', above=0)
  patience: int | None = setting(
    None, 'Evaluations without a better value before the stage stops; 0: never.', at_least=0
  )
  start_from_best: bool = setting(
    False, 'Begin with the best checkpoint of the stage before instead of its last one.'
  )
  sid_rows: str | None = setting(
    None,
    'Replaces the rows of SID tokens at the start of the stage, see model.sid_rows: by the text rows of that moment. '
    'None: they stay.',
    one_of=SID_ROWS,
  )
  grpo: Grpo = setting(meaning='Settings of a stage of kind grpo.', factory=Grpo)
  groups: dict[str, Group] = setting(
    meaning='Parameter groups of the stage; they come before those of optim.groups.', factory=dict
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      None in (self.num_train_steps, self.num_epochs),
      f'{self.prefix}num_epochs must be None where num_train_steps is set ({self.num_train_steps})',
      self.num_epochs,
      f'{self.prefix}num_train_steps or num_epochs, but only one of them',
    )
    check(
      self.kind != SUPERVISED or self.grpo == Grpo(),
      f'{self.prefix}grpo has no effect on a supervised stage and must keep its defaults',
      self.grpo,
      f'{self.prefix}kind=grpo',
    )
