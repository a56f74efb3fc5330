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

from recjax.data.prepared import Prepared, recorded
from recjax.data.tasks import TASKS, Component
from recjax.data.tasks.next_item import NextItem
from recjax.schema.checks import check, check_choice
from recjax.schema.data import Data, Keywords, Relations, Sids
from recjax.schema.optim import Group, Stage
from recjax.schema.run import (
  Checkpoint,
  Eval,
  Hosts,
  Loader,
  Mesh,
  Mixing,
  Profile,
  Training,
)

_PREPARED_SECTIONS = ('sids', 'relations', 'keywords')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Training):
  """A run: its training and its data."""

  data: Data
  sids: Sids
  relations: Relations
  keywords: Keywords
  mixture: dict[str, Component]
  mixing: Mixing
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
    super().__post_init__()
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
  def preparation(self) -> dict[str, Any]:
    """The settings that the prepared data depend on; paths of raw files are left out."""
    data = dataclasses.asdict(self.data)
    for name in ('raw_dir', 'prepared_dir', 'download', 'download_url'):
      del data[name]
    needs = [what for what in ('collaborative', 'semantic', 'keywords') if self.needs(what)]
    sections = {name: dataclasses.asdict(getattr(self, name)) for name in _PREPARED_SECTIONS}
    return sections | {
      'data': data,
      'needs': needs,
      'pretrained': self.model.pretrained,
      'ks': self.eval.ks,
    }

  @property
  def prepared(self) -> Prepared:
    """The stage folders that the last preparation with these settings used.

    Raises:
      ValueError: nothing is prepared with these settings.
    """
    return recorded(self.prepared_folder, self.preparation)

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


def next_item_component(config: Config) -> NextItem:
  """The component whose prompt the search continues: the mixture's next_item component.

  Raises:
    ValueError: the mixture has none.
  """
  components = [c for c in config.mixture.values() if c.task == 'next_item']
  check(
    bool(components),
    'the mixture must hold a next_item component: its prompt is what recommendations continue',
    sorted(config.mixture),
    'mixture.<name>.task',
  )
  return components[0]


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
