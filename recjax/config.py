"""The typed configuration: a ConfigDict becomes frozen dataclasses that were checked once, at start-up.

`configs/*.py` hold ConfigDicts because the command line can override them; the program reads only the
dataclasses below. Every error says what must hold, what was got and which field to set.
"""

import dataclasses
import types
import typing
from typing import Any

from etils import epath
import ml_collections

from recjax.data.tasks import TASKS, Component
from recjax.schema.checks import check, check_choice, check_pattern, check_positive
from recjax.schema.data import Data, Keywords, Relations, Sids
from recjax.schema.optim import Group, Optim, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The backbone: a family, a size, and how it computes."""

  family: str = 'gemma'  # a name of recjax.models.FAMILIES
  size: str = ''  # a published one, such as gemma3_270m or flan_t5_base; empty: the fields below
  pretrained: str | None = None  # a checkpoint's folder, which gives the size too
  sid_rows: str = 'mean'  # mean | random | sa_init: how SID rows begin in a pretrained table
  sid_keywords: str | None = (
    None  # sa_init: JSON of keywords a SID token; None: those of the preparation
  )
  depth: int = 4
  width: int = 128  # D
  ff_width: int = 512  # F
  heads: int = 4  # N
  kv_heads: int = 4  # K
  head_width: int = 32  # H
  dropout: float = 0.0  # on the residual branches and the embedding
  lora_rank: int = 0  # of adapters (LoRA), trained instead of all that no group names; 0: none
  lora_alpha: float = 16.0  # adapters count alpha / rank times
  lora_targets: str = 'attention|ff'  # a regular expression: the kernels that get an adapter
  sid_softmax: str = 'level'  # level | full: what the scores at a SID position are normalised over
  compute_dtype: str = 'float32'  # float32 | bfloat16: of products, those of gradients too
  remat: str = 'none'  # none | full: recompute each layer in the backward pass
  scan_unroll: int = 1  # layers per step of the scan over layers
  attention: str = 'auto'  # auto | plain | xla | cudnn | splash: what computes it, where it applies

  def __post_init__(self):
    check_positive(
      self, 'model.', 'depth', 'width', 'ff_width', 'heads', 'kv_heads', 'head_width', 'scan_unroll'
    )
    check(0 <= self.dropout < 1, 'model.dropout must be in [0, 1)', self.dropout, 'model.dropout')
    check(
      self.lora_rank >= 0, 'model.lora_rank must not be negative', self.lora_rank, 'model.lora_rank'
    )
    check_positive(self, 'model.', 'lora_alpha')
    check_pattern(self.lora_targets, 'model.lora_targets')
    check(
      self.heads % self.kv_heads == 0,
      f'model.heads ({self.heads}) must be a multiple of model.kv_heads',
      self.kv_heads,
      'model.kv_heads',
    )
    check_choice(self.sid_softmax, ('level', 'full'), 'model.sid_softmax')
    check_choice(self.compute_dtype, ('float32', 'bfloat16'), 'model.compute_dtype')
    check_choice(self.remat, ('none', 'full'), 'model.remat')
    attentions = ('auto', 'plain', 'xla', 'cudnn', 'splash')
    check_choice(self.attention, attentions, 'model.attention')
    check_choice(self.sid_rows, ('mean', 'random', 'sa_init'), 'model.sid_rows')

  @property
  def is_encoder_decoder(self) -> bool:
    """Whether inputs and targets go to different stacks; else they are one sequence."""
    return self.family == 't5'


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
class Config:
  """A run. `batch_size` counts packed rows over all hosts and micro-batches."""

  seed: int = 0
  batch_size: int = 64
  num_train_steps: int = 1000
  grad_accumulation: int = 1  # micro-batches a step
  log_every_steps: int = 50  # the progress line; metrics.jsonl holds every step
  eval_every_steps: int = 500
  checkpoint_every_steps: int = 500
  data: Data
  sids: Sids
  relations: Relations
  keywords: Keywords
  model: Model
  mixture: dict[str, Component]
  mixing: Mixing
  packing: Packing
  optim: Optim
  loss: Loss
  eval: Eval
  checkpoint: Checkpoint
  mesh: Mesh
  loader: Loader
  hosts: Hosts
  profile: Profile
  # A folder for compiled programs, so that a restart does not compile again. None: compilation_cache in the
  # workdir, but none on CPU, where compiling is quick; empty: none. $JAX_COMPILATION_CACHE_DIR comes first.
  compilation_cache: str | None = None
  stages: dict[str, Stage] = dataclasses.field(default_factory=dict)  # in order; empty: one, this

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
    check(
      bool(self.active_mixture),
      'the mixture must hold a component with a positive weight',
      {name: component.weight for name, component in self.mixture.items()},
      'mixture.<name>.weight',
    )
    for name, stage in self.stages.items():
      for component in stage.mixture:
        field = f'stages.{name}.mixture'
        check_choice(component, tuple(self.mixture), field)

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @property
  def prepared_folder(self) -> epath.Path:
    """Where the prepared data lie: `data.prepared_dir`, or data/<name>.

    A pretrained model brings its tokenizer, so its data have a folder of their own: data/<name>-<model>.
    """
    if self.data.prepared_dir is not None:
      return epath.Path(self.data.prepared_dir)
    pretrained = self.model.pretrained
    suffix = f'-{epath.Path(pretrained).name}' if pretrained is not None else ''
    return epath.Path(f'data/{self.data.name}{suffix}')

  @property
  def active_mixture(self) -> dict[str, Component]:
    """The components that are ever drawn."""
    return {name: component for name, component in self.mixture.items() if component.is_active}

  def needs(self, what: str) -> bool:
    """Whether the preparation must make `collaborative` or `semantic` relations, or `keywords`."""
    asked = any(what in component.needs for component in self.active_mixture.values())
    if what == 'collaborative':
      is_fitted = self.sids.quantizer == 'rqvae' and self.sids.extend is None
      return asked or (is_fitted and self.sids.rqvae.contrastive_weight > 0)
    if what == 'semantic':
      return asked or (self.relations.backfill and self.needs('collaborative'))
    return asked or (self.model.sid_rows == 'sa_init' and self.model.sid_keywords is None)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
  """Converts and checks a ConfigDict.

  Raises:
    ValueError: a field is unknown, missing, of the wrong type or breaks a rule.
  """
  return from_dict(config.to_dict())


def from_dict(fields: dict[str, Any]) -> Config:
  """The same of nested dicts, such as `Config.to_dict` gives, also after JSON."""
  return _convert(Config, fields, '')


def _convert(kind: type, values: dict[str, Any], prefix: str) -> Any:
  types_of = typing.get_type_hints(kind)
  hints = {field.name: types_of[field.name] for field in dataclasses.fields(kind)}
  unknown = sorted(set(values) - set(hints))
  if unknown:
    raise ValueError(
      f'unknown config field {prefix}{unknown[0]}; the fields of {prefix or "the config"} are '
      f'{", ".join(sorted(hints))}'
    )
  required = {
    f.name
    for f in dataclasses.fields(kind)
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  }
  missing = sorted(required - set(values))
  if missing:
    raise ValueError(f'the config must set {prefix}{missing[0]}; it is missing')
  return kind(**{name: _value(hints[name], value, prefix + name) for name, value in values.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
  if dataclasses.is_dataclass(hint):
    check(isinstance(value, dict), f'{path} must be a section of fields', value, path)
    if hint is Component:
      check_choice(value.get('task'), tuple(TASKS), f'{path}.task')
      with TASKS[value['task']].called(path):
        return _convert(TASKS[value['task']], value, path + '.')
    return _convert(hint, value, path + '.')
  if typing.get_origin(hint) is dict:  # named sub-configs
    check(isinstance(value, dict), f'{path} must be a section of named fields', value, path)
    kind = typing.get_args(hint)[1]
    return {name: _value(kind, item, f'{path}.{name}') for name, item in value.items()}
  if typing.get_origin(hint) is tuple:
    check(isinstance(value, (tuple, list)), f'{path} must be a tuple', value, path)
    kind = typing.get_args(hint)[0]
    return tuple(_value(kind, item, path) for item in value)
  kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  if float in kinds and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
  check(right, f'{path} must be of type {" or ".join(k.__name__ for k in kinds)}', value, path)
  return value


def defaults(source: str, name: str) -> ml_collections.ConfigDict:
  """A ConfigDict of every field at its default, for `configs/*.py` to start from.

  Optional fields are placeholders, so that the command line can set them.
  """
  config = _defaults(Config)
  config.data = _defaults(Data)
  config.data.source, config.data.name = source, name
  config.mixture = ml_collections.ConfigDict({'next_item': component('next_item')})
  return config


def component(task: str, **fields: Any) -> ml_collections.ConfigDict:
  """A component for `config.mixture`, with every field of the task (`recjax.data.tasks`)."""
  config = _defaults(TASKS[task])
  config.update(fields)
  return config


def group(pattern: str, **fields: Any) -> ml_collections.ConfigDict:
  """A parameter group for `config.optim.groups`, with every field of `Group`."""
  config = _defaults(Group)
  config.pattern = pattern
  config.update(fields)
  return config


def stage(num_train_steps: int, **fields: Any) -> ml_collections.ConfigDict:
  """A stage for `config.stages`, with every field of `Stage`."""
  config = _defaults(Stage)
  config.num_train_steps = num_train_steps
  config.update(fields)
  return config


def ordered(**sections: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Named groups or stages in the order given; a plain dict in a ConfigDict would be sorted by name."""
  config = ml_collections.ConfigDict(sort_keys=False)
  for name, section in sections.items():
    config[name] = section
  return config


def _defaults(kind: type) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    hint = hints[field.name]
    if isinstance(hint, types.UnionType):
      config[field.name] = ml_collections.config_dict.placeholder(typing.get_args(hint)[0])
    elif typing.get_origin(hint) is dict:
      config[field.name] = ordered()
    elif field.default is not dataclasses.MISSING:
      config[field.name] = field.default
    elif dataclasses.is_dataclass(hint) and hint is not Data:
      config[field.name] = _defaults(hint)
  return config
