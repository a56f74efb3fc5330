"""Flags and overrides that a mode would ignore are refused by name."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

from recjax.config import Config
from recjax.schema.optim import Stage
from recjax.workdir import paths, serving, stages

# Flag → the modes that read it. All modes read the other flags.
FLAGS = {
  'histories': ('recommend',),
  'skip_unknown': ('recommend',),
  'masks': ('recommend', 'serve'),
  'within': ('recommend',),
  'k': ('recommend',),
  'out': ('recommend', 'export', 'describe', 'compare'),
  'format': ('export',),
  'workdirs': ('compare',),
  'from': ('refresh',),
  'raw_dir': ('refresh',),
  'budget': ('refresh',),
  'prune': ('prepare',),
  **dict.fromkeys(serving.FLAGS, ('serve',)),
  'beams': ('serve', 'export'),
}

_DATA = ('data', 'sids', 'relations', 'keywords', 'mesh', 'hosts')
_SEARCH = tuple(
  f'eval.{name}'
  for name in (
    'beams',
    'batch_size',
    'ks',
    'exclude_seen',
    'shared_sids',
    'memory',
    'text',
    'blend',
  )
)
# An export searches without them.
_SPEED = ('eval.beam_widths', 'eval.beam_cut', 'eval.weights_dtype')
# Mode → the sections and fields that it reads from the command; it has the others from the workdir. The other modes
# read all.
_USE = (*_DATA, *_SEARCH, 'model', 'mixture', 'compilation_cache')
_RANK = (*_USE, *_SPEED)
_READ = {
  'report': _DATA,
  'evaluate': (*_RANK, 'evaluators', 'eval.baselines', 'eval.sasrec'),
  'recommend': _RANK,
  'serve': _RANK,
  'export': _USE,
}


# Fields of a run that have an effect beside that on the stages: `sizes` reads them to choose others, and they must fit
# packing.rows.
_READ_BY_RUN = ('batch_size', 'packing.row_length', 'eval_every_steps')


def check_flags(mode: str, given: Iterable[str]) -> None:
  """Checks that a mode reads every flag of a command.

  Args:
    mode: value of --mode.
    given: names of the flags on the command line.

  Raises:
    ValueError: it ignores some; the message names the modes that read them.
  """
  by_modes: dict[tuple[str, ...], list[str]] = {}
  for name in given:
    if mode not in FLAGS.get(name, (mode,)):
      by_modes.setdefault(FLAGS[name], []).append(f'--{name}')
  if by_modes:
    parts = [f'{" and ".join(names)}{{}} with --mode={_or(m)}' for m, names in by_modes.items()]
    parts = [part.format('' if n else ' must be used') for n, part in enumerate(parts)]
    raise ValueError(f'{", ".join(parts)}; got --mode={mode}')


def check_overrides(
  mode: str, given: Iterable[str], config: Config, saved: Config | None, is_program: bool = False
) -> None:
  """Checks that a mode reads every override that contradicts the run.

  Args:
    mode: value of --mode.
    given: fields on the command line, such as 'eval.beams'.
    config: config of the command.
    saved: config of the workdir. None: it has none.
    is_program: whether `config` is that of a program, so that the command may repeat the epochs of the training, which
      the workdir holds as steps.

  Raises:
    ValueError: it ignores some.
  """
  read = _READ.get(mode)
  if read is None or saved is None:
    return
  for path in dict.fromkeys(given):
    if _is_below(path, read):
      continue
    now, was = _value(config, path), _value(saved, path)
    is_steps = is_program and path.endswith('num_epochs')
    if now is None or is_steps or _is_same(now, was):  # None: left to the data
      continue
    modes = [name for name, fields in _READ.items() if _is_below(path, fields)]
    raise ValueError(
      f'--config.{path} has no effect with --mode={mode}; got {now!r}, the workdir has {was!r}. Leave it out; it is '
      f'read by --mode={_or((*modes, "train"))}'
    )


def check_length(given: Iterable[str], config: Config) -> None:
  """Checks that a command gives the length of a training where it is read: every stage has its own.

  Args:
    given: fields on the command line.
    config: config of the command.

  Raises:
    ValueError: it gives the length of a run of stages.
  """
  found = [path for path in given if path in ('num_train_steps', 'num_epochs')]
  if config.stages and found:
    fields = ', '.join(f'--config.stages.{name}.{found[-1]}' for name in config.stages)
    raise ValueError(
      f'--config.{found[-1]} has no effect on a run of stages, each of which has its own length; got '
      f'{_value(config, found[-1])!r}. Set {fields}'
    )


def check_replaced(given: Iterable[str], config: Config) -> None:
  """Checks that a command changes no field that every stage of a run replaces.

  Args:
    given: fields on the command line.
    config: config of the command.

  Raises:
    ValueError: a field has no effect.
  """
  for path in given if config.stages else ():
    own = [_own_field(path, name, stage) for name, stage in config.stages.items()]
    if path not in _READ_BY_RUN and None not in own:
      fields = ', '.join(f'--config.{field}' for field in own)
      raise ValueError(
        f'--config.{path} has no effect on a run of stages, each of which has its own; got '
        f'{_value(config, path)!r}. Set {fields}'
      )


def _own_field(path: str, name: str, stage: Stage) -> str | None:
  """Returns the field of a stage that replaces a field of the run; None: the stage has the run's."""
  if path.startswith('optim.groups.'):
    _, _, group, field = path.split('.', 3)
    return f'stages.{name}.groups.{group}.{field}' if group in stage.groups else None
  own = [field for field, replaced in stages.REPLACED.items() if replaced == path]
  return f'stages.{name}.{own[0]}' if own and getattr(stage, own[0]) is not None else None


def check_components(given: Iterable[str], config: Config, is_saved: bool) -> None:
  """Checks that every active component is trained in a stage of the run.

  Args:
    given: fields on the command line.
    config: config of the command.
    is_saved: whether it is that of a workdir. Earlier versions let such components pass, and their runs must go on.

  Raises:
    ValueError: every stage has its own mixture, and a component is in none of them.
  """
  if is_saved and not any(_is_below(path, ('mixture', 'stages')) for path in given):
    return
  own = [stage.mixture for stage in config.stages.values()]
  for name in config.active_mixture if own and all(own) else ():
    if not any(name in mixture for mixture in own):
      fields = ', '.join(f'--config.stages.{stage}.mixture' for stage in config.stages)
      raise ValueError(
        f'mixture.{name} must be in the mixture of a stage, or have no weight: every stage has its own mixture, and '
        f'none of them names it; got {own}. Set {fields} or --config.mixture.{name}.weight=0'
      )


def _is_below(path: str, sections: Iterable[str]) -> bool:
  return any(path == section or path.startswith(f'{section}.') for section in sections)


def _value(section: Any, path: str) -> Any:
  for name in path.split('.'):
    if dataclasses.is_dataclass(section):
      section = getattr(section, name, None)
    else:
      section = section.get(name) if isinstance(section, dict) else None
  return section


def _is_same(now: Any, was: Any) -> bool:
  if isinstance(now, str) and isinstance(was, str):
    return now == was or paths.absolute(now) == paths.absolute(was)
  return now == was


def _or(names: Sequence[str]) -> str:
  *most, last = names
  return f'{", ".join(most)} or {last}' if most else last
