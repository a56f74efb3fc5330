"""The config sections of a run: mixing, packing, loss, evaluation, checkpoints, mesh, hosts."""

import dataclasses

from recjax.schema.checks import check, check_choice, check_positive
from recjax.schema.model import Model
from recjax.schema.optim import Optim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
  """How the weights of the mixture become shares of the examples."""

  by: str = 'weight'  # weight: as they are | size: times the units of the task
  temperature: float = 1.0  # size: units to the power of 1 / temperature (T5, section 3.5.2)

  def __post_init__(self):
    check_choice(self.by, ('weight', 'size'), 'mixing.by')
    check_positive(self, 'mixing.', 'temperature')

  def size_factor(self, units: int) -> float:
    return units ** (1 / self.temperature) if self.by == 'size' else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
  """W consecutive examples become exactly R rows of `row_length` tokens."""

  row_length: int = 128  # T; of an encoder–decoder: the encoder's
  decoder_row_length: int = 32  # of an encoder–decoder alone
  rows: int = 32  # R
  examples: int | None = None  # W; None: estimated from the lengths of the stream, then fixed

  def __post_init__(self):
    check_positive(self, 'packing.', 'row_length', 'decoder_row_length', 'rows')
    check(
      self.examples is None or self.examples > 0,
      'packing.examples must be positive',
      self.examples,
      'packing.examples',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
  """What is added to the negative log-likelihood of a target."""

  z_loss: float = 0.0  # times the squared log of the softmax's denominator
  label_smoothing: float = 0.0  # share of a target's probability that is spread over all classes

  def __post_init__(self):
    check(self.z_loss >= 0, 'loss.z_loss must not be negative', self.z_loss, 'loss.z_loss')
    check(
      0 <= self.label_smoothing < 1,
      'loss.label_smoothing must be in [0, 1)',
      self.label_smoothing,
      'loss.label_smoothing',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
  beams: int = 40  # M
  batch_size: int = 128  # users a step, over all devices
  eval_users: int = 2000  # a fixed seeded sample of validation users during training
  patience: int = 0  # evaluations without a better ndcg@10 before the run stops; 0: never
  ks: tuple[int, ...] = (1, 5, 10, 20)
  exclude_seen: bool = True  # items of the history are never recommended, by the baselines neither

  def __post_init__(self):
    check_positive(self, 'eval.', 'beams', 'batch_size', 'eval_users')
    check(self.patience >= 0, 'eval.patience must not be negative', self.patience, 'eval.patience')
    check(
      bool(self.ks) and all(k > 0 for k in self.ks) and 10 in self.ks,
      'eval.ks must be positive and hold 10, which chooses the best checkpoint',
      self.ks,
      'eval.ks',
    )
    check(
      self.beams >= max(self.ks),
      f'eval.beams must be at least the largest of eval.ks ({max(self.ks)})',
      self.beams,
      'eval.beams',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  max_to_keep: int = 2  # the newest ones, beside the best one
  init_from: str | None = None  # start from the best checkpoint of that workdir
  init_from_last: bool = False  # from its newest checkpoint instead
  allow_new_stream: bool = False  # resume although the stream's fingerprint changed

  def __post_init__(self):
    check_positive(self, 'checkpoint.', 'max_to_keep')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """Which steps the profiler traces; reading a trace is described in docs/goodput.md."""

  steps: tuple[int, ...] = ()  # the first and the last one, such as (100, 104); empty: none
  hosts: str = 'first'  # first | all: whose devices
  folder: str | None = None  # None: profile in the workdir

  def __post_init__(self):
    check(
      not self.steps or (len(self.steps) == 2 and 0 < self.steps[0] <= self.steps[1]),
      'profile.steps must be empty or the first and the last step, both counted from 1',
      self.steps,
      'profile.steps',
    )
    check_choice(self.hosts, ('first', 'all'), 'profile.hosts')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  """Devices along each axis; one of them may be -1: what is left."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def __post_init__(self):
    sizes = (self.data, self.fsdp, self.tensor)
    check(
      all(size > 0 or size == -1 for size in sizes) and sizes.count(-1) <= 1,
      'mesh axes must be positive, and at most one of them -1',
      sizes,
      'mesh.{data,fsdp,tensor}',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
  threads: int = 1  # reading threads a host; with workers: in each
  workers: int = 0  # reading processes a host; 0: threads of this one
  buffer: int = 4  # batches ready ahead of the step; with workers: of each
  device_buffer: int = 1  # batches that are already on their way to the devices

  def __post_init__(self):
    check_positive(self, 'loader.', 'threads', 'buffer')
    for name in ('workers', 'device_buffer'):
      value = getattr(self, name)
      check(value >= 0, f'loader.{name} must not be negative', value, f'loader.{name}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
  """How many seconds the processes of a run wait before they end with a message."""

  start_timeout: float = 300.0  # for all to find each other
  heartbeat_timeout: float = 100.0  # for a word from another process
  barrier_timeout: float = 900.0  # for all to come to the same named point
  step_timeout: float = 900.0  # for a step of training; 0: no limit
  phase_timeout: float = 3600.0  # for what may compile or read (the first steps, a batch of a
  # search, a restore) and for saving; 0: no limit

  def __post_init__(self):
    check_positive(self, 'hosts.', 'start_timeout', 'heartbeat_timeout', 'barrier_timeout')
    for name in ('step_timeout', 'phase_timeout'):
      value = getattr(self, name)
      check(value >= 0, f'hosts.{name} must not be negative', value, f'hosts.{name}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
  """The config of one training, without its data: scalars, and the sections that a train step reads.

  `batch_size` counts packed rows over all hosts and micro-batches.
  """

  seed: int = 0
  batch_size: int = 64
  num_train_steps: int = 1000
  grad_accumulation: int = 1  # micro-batches a step
  log_every_steps: int = 50  # the progress line; metrics.jsonl holds every step
  eval_every_steps: int = 500
  checkpoint_every_steps: int = 500
  model: Model
  packing: Packing
  optim: Optim
  loss: Loss

  def __post_init__(self):
    check_positive(
      self,
      '',
      'batch_size',
      'num_train_steps',
      'grad_accumulation',
      'log_every_steps',
      'eval_every_steps',
      'checkpoint_every_steps',
    )
    check(
      self.batch_size % self.packing.rows == 0,
      f'batch_size counts rows and must be a multiple of packing.rows ({self.packing.rows})',
      self.batch_size,
      'batch_size',
    )
    check(
      self.batch_size % self.grad_accumulation == 0,
      f'batch_size must be a multiple of grad_accumulation ({self.grad_accumulation})',
      self.batch_size,
      'batch_size',
    )
    check(
      self.optim.warmup_steps <= self.num_train_steps,
      f'optim.warmup_steps must not exceed num_train_steps ({self.num_train_steps})',
      self.optim.warmup_steps,
      'optim.warmup_steps',
    )
