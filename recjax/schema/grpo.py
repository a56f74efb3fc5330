"""The config sections of a stage of reinforcement learning (GRPO, arXiv 2402.03300, section 4.1)."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

from recjax.schema.checks import Section, check, setting

SUPERVISED, GRPO = KINDS = ('supervised', 'grpo')
PROMPTS = ('next_item', 'title_to_sid')  # tasks that are answered by one semantic ID
MOST = 1e6  # of a weight; advantages of larger ones are not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewards(Section):
  """Weights of the rewards of an item in a group; their weighted sum is its reward."""

  prefix: ClassVar = 'stages.<name>.grpo.rewards.'

  exact: float = setting(1.0, 'Weight of: 1 for the target, else 0.', at_least=0, at_most=MOST)
  rank: float = setting(
    1.0,
    'Weight of: in a group with the target, minus a share for every other item, larger at better ranks (MiniOneRec).',
    at_least=0,
    at_most=MOST,
  )
  prefix_depth: float = setting(
    0.0,
    "Weight of: the share of the item's leading codes that are those of the target.",
    at_least=0,
    at_most=MOST,
  )
  teacher: float = setting(
    0.0,
    "Weight of: the item's share of the teacher's probability of the items of its group.",
    at_least=0,
    at_most=MOST,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grpo(Section):
  """A stage of reinforcement learning on groups of items that the model itself ranks."""

  prefix: ClassVar = 'stages.<name>.grpo.'

  group: int = setting(
    16, 'Items of a group, for one history; with beams at most eval.beams.', at_least=2
  )
  samples: str = setting(
    'beams',
    'How a group is made: beams of the constrained search, or items drawn code by code from the scores of the codes '
    'that the catalogue allows.',
    one_of=('beams', 'sampled'),
  )
  temperature: float = setting(
    1.0, 'With sampled: the log-probabilities are divided by it.', above=0
  )
  updates: int = setting(1, 'Updates of the parameters with the same groups.', above=0)
  clip: float = setting(
    0.2,
    'How far the probability of a code may fall below that of the groups, as a share, before the loss ignores it.',
    above=0,
    below=1,
  )
  clip_high: float | None = setting(
    None, 'The same for a rising probability. None: as clip.', above=0
  )
  kl: float = setting(
    1e-3, 'Weight of the divergence from the parameters that the stage began with.', at_least=0
  )
  scale_by_std: bool = setting(
    True, 'Divide advantages by the standard deviation of the rewards of their group.'
  )
  prompts: tuple[str, ...] = setting(
    (),
    'Further components of the stage whose prompts are answered, beside next_item as the search shows it: of the task '
    'title_to_sid, or next_item in another form.',
  )
  teacher: str | None = setting(
    None,
    'Workdir of a finished SASRec run over the same interactions, for rewards.teacher.',
    path=True,
  )
  rewards: Rewards = setting(meaning='Weights of the rewards.', factory=Rewards)

  def __post_init__(self):
    super().__post_init__()
    weights = dataclasses.asdict(self.rewards)
    path = f'{self.prefix}rewards'
    check(any(weights.values()), f'{path} must have a positive weight', weights, f'{path}.exact')
    check(
      (self.teacher is not None) == (self.rewards.teacher > 0),
      f'{self.prefix}teacher must be the workdir of a SASRec run if {path}.teacher is positive '
      f'({self.rewards.teacher:g}), and None otherwise',
      self.teacher,
      f'{self.prefix}teacher or --config.{path}.teacher',
    )


def check_stages(
  stages: Mapping[str, Any], mixture: Mapping[str, Any], beams: int, has_start: bool
) -> None:
  """Checks that the stages of kind grpo can begin and have prompts.

  Args:
    stages: the stages of a run by name, in order.
    mixture: its active components by name.
    beams: `eval.beams`.
    has_start: whether the first stage begins with the parameters of a checkpoint.

  Raises:
    ValueError: such a stage is the first one without a checkpoint, lacks a next_item component, has other prompts than
      `PROMPTS`, or groups larger than the search can return.
  """
  for number, (name, stage) in enumerate(stages.items()):
    if stage.kind != GRPO:
      continue
    path = f'stages.{name}'
    check(
      number > 0 or has_start,
      f'{path}.kind=grpo improves a trained model, so a supervised stage must come before it, or checkpoint.init_from '
      'must name a workdir',
      list(stages),
      'checkpoint.init_from',
    )
    tasks = {n: c.task for n, c in mixture.items() if n in (stage.mixture or mixture)}
    check(
      'next_item' in tasks.values(),
      f'{path}.kind=grpo must have an active next_item component, whose prompts it continues',
      tasks,
      f'{path}.mixture',
    )
    prompts = {name: tasks.get(name) for name in stage.grpo.prompts}
    check(
      {*prompts.values()} <= {*PROMPTS},
      f'{path}.grpo.prompts must name active components of the stage, of the tasks {" and ".join(PROMPTS)}, whose answer '
      'is one semantic ID',
      prompts,
      f'{path}.grpo.prompts',
    )
    check(
      stage.grpo.teacher is None or {*prompts.values()} <= {'next_item'},
      f'{path}.grpo.prompts must be of the task next_item with a teacher, which reads histories',
      prompts,
      f'{path}.grpo.prompts or --config.{path}.grpo.teacher',
    )
    check(
      stage.grpo.samples != 'beams' or stage.grpo.group <= beams,
      f'{path}.grpo.group must be at most eval.beams ({beams}): a larger group trains ranks that the search never '
      'returns',
      stage.grpo.group,
      f'{path}.grpo.group or --config.eval.beams',
    )
