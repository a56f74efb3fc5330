"""The typed config of a run, and the builders of the ConfigDicts in `configs/*.py`.

The command line overrides fields of a ConfigDict. At start-up the ConfigDict is converted to frozen dataclasses
and checked once; the program reads only these. `--mode=config` prints every field with its meaning.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from etils import epath
import ml_collections

from recjax import models
from recjax.baselines import BASELINES, TRAINED
from recjax.data.prepared import Prepared, recorded
from recjax.data.tasks import TASKS, Component
from recjax.data.tasks.next_item import NextItem
from recjax.metrics.evaluators import EVALUATORS, Evaluator
from recjax.metrics.evaluators.retrieval import Retrieval
from recjax.metrics.selection import Selection
from recjax.schema.building import fields_of
from recjax.schema.building import ordered as ordered
from recjax.schema.checks import check, check_choice, setting
from recjax.schema.conversion import convert
from recjax.schema.data import SOURCES, Data, data_section, own_fields, warn_of_ignored_options
from recjax.schema.grpo import check_stages
from recjax.schema.items import Keywords, Relations
from recjax.schema.optim import Group, Stage
from recjax.schema.run import Checkpoint, Eval, Hosts, Mesh, Profile, Training
from recjax.schema.sids import Sids
from recjax.schema.stream import Loader, Mixing

_PREPARED_SECTIONS = ('sids', 'relations', 'keywords')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Training):
  """The full config of a run. The fields of this section have no prefix."""

  data: Data
  sids: Sids
  relations: Relations
  keywords: Keywords
  mixture: dict[str, Component] = setting(meaning='Components of the training data, by name.')
  mixing: Mixing
  eval: Eval
  evaluators: dict[str, Evaluator] = setting(
    meaning='Evaluators of the run, by name; retrieval is always among them.',
    factory=lambda: {'retrieval': Retrieval()},
  )
  checkpoint: Checkpoint
  mesh: Mesh
  loader: Loader
  hosts: Hosts
  profile: Profile
  compilation_cache: str | None = setting(
    None,
    'Folder of compiled programs, so that a restart need not compile. None: compilation_cache in the '
    'workdir, but none on CPU; empty: none. $JAX_COMPILATION_CACHE_DIR has precedence.',
    path=True,
  )
  log_to: tuple[str, ...] = setting(
    (),
    'Services that get the metrics too: wandb (Weights & Biases), mlflow. The package must be installed.',
    one_of=('wandb', 'mlflow'),
  )
  stages: dict[str, Stage] = setting(
    meaning='Stages of the run by name, in order; empty: one stage.', factory=dict
  )

  def __post_init__(self):
    super().__post_init__()
    check_choice(self.model.family, tuple(models.FAMILIES), 'model.family')
    if self.model.size:
      check_choice(self.model.size, tuple(models.families.sizes()), 'model.size')
    check(
      bool(self.active_mixture),
      'the mixture must hold a component with a positive weight',
      {name: component.weight for name, component in self.mixture.items()},
      'mixture.<name>.weight',
    )
    for name, stage in self.stages.items():
      for component in stage.mixture:
        check_choice(component, tuple(self.mixture), f'stages.{name}.mixture')
    has_start = self.checkpoint.init_from is not None or self.model.pretrained is not None
    check_stages(self.stages, self.active_mixture, self.eval.beams, has_start)
    check(
      isinstance(self.evaluators.get('retrieval'), Retrieval),
      'evaluators must hold the evaluator retrieval of the type retrieval',
      {name: evaluator.evaluator for name, evaluator in self.evaluators.items()},
      'evaluators.retrieval.evaluator',
    )
    for name in self.evaluators:  # each has a file predictions/<split>/<name>.parquet
      check(
        name.isidentifier() and name.lower() not in ('rows', 'baselines'),
        'the name of an evaluator must be letters, digits and _, begin with no digit, and be neither rows nor baselines',
        name,
        'evaluators.<another name>.evaluator',
      )
    check(
      self.model.item_head or not self.eval.blend.head,
      'eval.blend.head must be 0 or None without model.item_head',
      self.eval.blend.head,
      'eval.blend.head',
    )
    for name in self.eval.baselines:
      check_choice(name, (*BASELINES, *TRAINED), 'eval.baselines')
    choices = [f'{name}.{m}' for name, e in self.evaluators.items() for m in e.metrics(self.eval)]
    check_choice(self.eval.choose_by, tuple(choices), 'eval.choose_by')

  def to_dict(self) -> dict[str, Any]:
    """Returns nested dicts that `from_dict` reads, also after JSON."""
    return dataclasses.asdict(self)

  @property
  def prepared_folder(self) -> epath.Path:
    """The folder of the prepared data: `data.prepared_dir`, or data/<name>.

    A pretrained model brings its tokenizer, so its data have a folder of their own: data/<name>-<model>.
    """
    if self.data.prepared_dir is not None:
      return epath.Path(self.data.prepared_dir)
    pretrained = self.model.pretrained
    # Without the commit of a name of the hub, hf:organisation/name@commit.
    name = pretrained.partition('@')[0] if models.pretrained.is_name(pretrained) else pretrained
    suffix = f'-{epath.Path(name).name}' if name is not None else ''
    return epath.Path(f'data/{self.data.name}{suffix}')

  @property
  def preparation(self) -> dict[str, Any]:
    """The settings that the prepared data depend on, as JSON; without paths of raw files."""
    data = self.data.identifying()
    for name in ('raw_dir', 'prepared_dir', 'download', 'download_url'):
      del data[name]
    needs = [name for name in ('collaborative', 'semantic', 'keywords') if self.needs(name)]
    sections = {name: getattr(self, name).identifying() for name in _PREPARED_SECTIONS}
    return sections | {
      'data': data,
      'needs': needs,
      'pretrained': self.model.pretrained,
      'ks': self.eval.ks,
    }

  @property
  def prepared(self) -> Prepared:
    """The stage folders of the last preparation with these settings.

    Raises:
      ValueError: nothing is prepared with these settings.
    """
    return recorded(self.prepared_folder, self.preparation)

  @property
  def active_mixture(self) -> dict[str, Component]:
    """The components with a positive weight at some point of the stream."""
    return {name: component for name, component in self.mixture.items() if component.is_active}

  @property
  def selection(self) -> Selection:
    """The metric that chooses the best checkpoint, `eval.choose_by`."""
    name, _, metric = self.eval.choose_by.partition('.')
    return Selection(name, metric, metric in self.evaluators[name].lower_is_better)

  def needs(self, product: str) -> bool:
    """Returns whether the preparation must compute 'collaborative', 'semantic' or 'keywords'."""
    is_used = any(product in component.needs for component in self.active_mixture.values())
    if product == 'collaborative':
      is_fitted = self.sids.quantizer == 'rqvae' and self.sids.extend is None
      return is_used or (is_fitted and self.sids.rqvae.contrastive_weight > 0)
    if product == 'semantic':
      return is_used or (self.relations.backfill and self.needs('collaborative'))
    made = {self.model.sid_rows, self.checkpoint.init_sid_rows}
    made |= {stage.sid_rows for stage in self.stages.values()}
    return is_used or ('sa_init' in made and self.model.sid_keywords is None)


# The fields of a next_item component that determine the form of its prompt. `max_items` determines its length.
PROMPT_FIELDS = ('show', 'learn', 'title_tokens', 'prompts', 'gaps', 'events')


def next_item_component(config: Config) -> NextItem:
  """Returns the component whose prompt the search continues; see `searched`.

  In a run of stages only components of the last stage count.

  Raises:
    ValueError: see `searched`.
  """
  mixture = config.mixture
  if config.stages:
    last = list(config.stages.values())[-1]
    mixture = {name: mixture[name] for name in last.mixture or mixture}
  return mixture[searched(mixture)]


def searched(mixture: Mapping[str, Component]) -> str:
  """Returns the name of the component whose prompt the search continues.

  It is the active next_item component with the largest final weight. Components with the same weight must have the
  same prompt.

  Raises:
    ValueError: there is no active next_item component, or the rule leaves different prompts.
  """
  candidates = {n: c for n, c in mixture.items() if isinstance(c, NextItem) and c.is_active}
  check(
    bool(candidates),
    'the mixture (of the last stage) must hold a next_item component with a positive weight: the search '
    'continues its prompt',
    {name: c.weight for name, c in mixture.items()},
    'mixture.<name>.weight',
  )
  largest = max(c.final_weight for c in candidates.values())
  first, *others = [name for name, c in candidates.items() if c.final_weight == largest]
  for other in others:
    a, b = candidates[first], candidates[other]
    differing = [f for f in (*PROMPT_FIELDS, 'max_items') if getattr(a, f) != getattr(b, f)]
    if differing:
      raise ValueError(
        f'the search continues the prompt of the next_item component with the largest weight, which must be '
        f'unique; mixture.{first} and mixture.{other} both have weight {largest:g} and differ in '
        f'{", ".join(differing)}. Set --config.mixture.{first}.weight or --config.mixture.{other}.weight to more'
      )
  return first


def check_evaluators(config: Config) -> None:
  """Checks that the mixture has the tasks of the evaluators.

  Raises:
    ValueError: it lacks one; the message names the evaluator.
  """
  for name, evaluator in config.evaluators.items():
    with evaluator.called(f'evaluators.{name}'):
      evaluator.check(config.active_mixture)


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
  """Converts and checks a ConfigDict.

  Raises:
    ValueError: a field is unknown, missing, of the wrong type or breaks a rule; or groups or stages are in a
      ConfigDict that sorts them by name, and were written in another order.
  """
  _check_order(config)
  made = convert(Config, config.to_dict(), choose)
  warn_of_ignored_options(config.data.to_dict())
  return made


def _check_order(config: ml_collections.ConfigDict, prefix: str = '') -> None:
  for name, value in config.items():
    if not isinstance(value, ml_collections.ConfigDict):
      continue
    path = prefix + name
    written = list(value._fields)
    is_ordered = path in ('optim.groups', 'stages') or re.fullmatch(r'stages\..*\.groups', path)
    if is_ordered and list(value) != written:
      raise ValueError(
        f'{path} must keep the order in which it was written, {written}; a plain ConfigDict sorts by name. Make '
        f'config.{path} with recjax.config.ordered(…)'
      )
    _check_order(value, f'{path}.')


def from_dict(fields: Mapping[str, Any]) -> Config:
  """Converts and checks nested dicts as `Config.to_dict` returns them; accepts those of older versions.

  Raises:
    ValueError: see `from_config_dict`.
  """
  return convert(Config, upgraded(fields), choose)


def upgraded(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of an older config.json with the current names and values.

  An older data section also holds options of other sources; they are dropped. Without `optim.train_sid_rows`,
  the SID rows beside adapters were frozen unless a group matched them.
  """
  fields = dict(fields)
  if isinstance(fields.get('data'), Mapping):
    fields['data'] = own_fields(fields['data'])
  if isinstance(fields.get('model'), Mapping):
    fields['model'] = models.upgraded(fields['model'])  # names of model families
  if isinstance(fields.get('optim'), Mapping) and fields.get('model', {}).get('lora_rank'):
    fields['optim'] = {'train_sid_rows': False, **fields['optim']}
  return fields


def choose(kind: type, values: Mapping[str, Any], path: str) -> tuple[type, Mapping[str, Any]]:
  """Returns the type of a section: of a component by its task, of an evaluator by its type, of the data by source."""
  if kind is Data:
    return data_section(values)
  if kind is Evaluator:
    check_choice(values.get('evaluator'), tuple(EVALUATORS), f'{path}.evaluator')
    return EVALUATORS[values['evaluator']], values
  if kind is not Component:
    return kind, values
  check_choice(values.get('task'), tuple(TASKS), f'{path}.task')
  return TASKS[values['task']], values


def defaults(source: str, name: str) -> ml_collections.ConfigDict:
  """Returns a ConfigDict of every field at its default, for `configs/*.py` to start from.

  Optional fields are placeholders, so that the command line can set them.
  """
  config = fields_of(Config)
  config.data = fields_of(SOURCES.get(source, Data))
  config.data.source, config.data.name = source, name
  config.mixture = ml_collections.ConfigDict({'next_item': component('next_item')})
  config.evaluators = ml_collections.ConfigDict({'retrieval': evaluator('retrieval')})
  return config


def component(task: str, **fields: Any) -> ml_collections.ConfigDict:
  """Returns a component for `config.mixture`, with every field of the task (`recjax.data.tasks`)."""
  check_choice(task, tuple(TASKS), 'mixture.<name>.task')
  config = fields_of(TASKS[task])
  config.update(fields)
  return config


def evaluator(kind: str, **fields: Any) -> ml_collections.ConfigDict:
  """Returns an evaluator for `config.evaluators`, with every field of its type (`recjax.metrics.evaluators`)."""
  check_choice(kind, tuple(EVALUATORS), 'evaluators.<name>.evaluator')
  config = fields_of(EVALUATORS[kind])
  config.update(fields)
  return config


def group(pattern: str, **fields: Any) -> ml_collections.ConfigDict:
  """Returns a parameter group for `config.optim.groups`, with every field of `Group`."""
  config = fields_of(Group)
  config.pattern = pattern
  config.update(fields)
  return config


def stage(num_train_steps: int | None = None, **fields: Any) -> ml_collections.ConfigDict:
  """Returns a stage for `config.stages`, with every field of `Stage`; its length may be `num_epochs` too."""
  config = fields_of(Stage)
  config.num_train_steps = num_train_steps
  config.update(fields)
  return config


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
  """Inverts `from_config_dict`, with every field of the config. The command line can set any of them."""
  made = fields_of(Config)
  _fill(made, config)
  return made


def _fill(made: ml_collections.ConfigDict, section: Any) -> None:
  """Sets the fields of a ConfigDict of `fields_of` to those of a section of its type."""
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    if dataclasses.is_dataclass(value):
      made[field.name] = fields_of(type(value))
      _fill(made[field.name], value)
    elif isinstance(value, dict):
      for name, part in value.items():
        made[field.name][name] = fields_of(type(part))
        _fill(made[field.name][name], part)
    elif value is not None:
      made[field.name] = value
