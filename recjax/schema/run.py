"""The config sections of a run: training, evaluation, checkpoints, profiling, mesh, hosts."""

import dataclasses
from typing import ClassVar

from recjax.schema.blend import NONE, Blend, Memory, Text
from recjax.schema.checks import Section, check, setting
from recjax.schema.model import SID_ROWS, Model
from recjax.schema.optim import Loss, Optim
from recjax.schema.stream import Packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(Section):
  """Evaluation: beam search for the targets of held-out rows; under leave-one-out a row is a user."""

  prefix: ClassVar = 'eval.'
  later: ClassVar = ('beam_cut',)

  beams: int = setting(
    40,
    'Beams of the search (M), and items that it ranks; at least the largest of eval.ks.',
    above=0,
  )
  beam_widths: tuple[int, ...] = setting(
    (),
    'Beams after each level before the last, after which eval.beams are left; one number for all of them. Empty: '
    'eval.beams.',
    above=0,
  )
  beam_cut: bool = setting(
    False,
    'Skip beams that can no longer enter the eval.beams items of the end; items and order stay the same. It acts if a '
    'level has at least 128 beams and four times eval.beams.',
  )
  weights_dtype: str = setting(
    'float32',
    'Type of the weights of the search: bfloat16 computes in bfloat16 too, int8 in bfloat16 or, on a CPU, in float32. An '
    'evaluation then also says how many items it has in common with float32.',
    one_of=('float32', 'bfloat16', 'int8'),
  )
  batch_size: int | None = setting(
    128, 'Held-out rows per batch, over all devices. None: from the data, at most 128.', above=0
  )
  eval_users: int | None = setting(
    2000,
    'Validation rows evaluated during training, a fixed sample. None: from 100 to 2000, so that an '
    'evaluation computes at most half of the tokens that training computes between two evaluations.',
    above=0,
  )
  patience: int = setting(
    0,
    'Evaluations without a better value of eval.choose_by before training stops; 0: never stop early.',
    at_least=0,
  )
  ks: tuple[int, ...] = setting(
    (1, 5, 10, 20), 'Cut-offs of the metrics; 10 must be among them.', above=0
  )
  choose_by: str = setting(
    'retrieval.ndcg@10',
    'EVALUATOR.METRIC on the validation sample that chooses the best checkpoint; during training no other evaluator '
    'runs.',
  )
  baselines: tuple[str, ...] = setting(
    (),
    'Baselines that are computed although they cost more than a tenth of the run; cheaper ones always are.',
  )
  sasrec: str | None = setting(
    None,
    'Workdir of a finished SASRec run over the same interactions, for the baseline sasrec. None: it is trained in '
    'baselines/sasrec of the workdir if eval.baselines names it.',
    path=True,
  )
  exclude_seen: bool = setting(
    True,
    'Never recommend an item of the history (with data.context_events: of its other interactions). Baselines '
    'follow the same rule.',
  )
  shared_sids: str = setting(
    'all',
    'Items that share a semantic ID: all are ranked, the most popular first; or only the first that is not excluded.',
    one_of=('all', 'first'),
  )
  memory: Memory = setting(meaning='Counts of training as a score of candidates.', factory=Memory)
  text: Text = setting(meaning='Similarity of texts as a score of candidates.', factory=Text)
  blend: Blend = setting(meaning='Weights of the scores of candidates.', factory=Blend)

  def __post_init__(self):
    super().__post_init__()
    check(
      not self.beam_cut or len(self.beam_widths) > 0,
      'eval.beam_cut must be False without eval.beam_widths: if all beams come back, none can be skipped',
      self.beam_cut,
      'eval.beam_widths to more beams than eval.beams',
    )
    check(
      not self.blend.memory or self.memory.counts != NONE,
      'eval.blend.memory must be 0 or None without eval.memory.counts',
      self.blend.memory,
      'eval.memory.counts to transitions or neighbours',
    )
    check(
      not self.blend.text or self.text.vectors != NONE,
      'eval.blend.text must be 0 or None without eval.text.vectors',
      self.blend.text,
      'eval.text.vectors to encoder',
    )
    check(
      10 in self.ks,
      'eval.ks must hold 10: recall@10 and ndcg@10 are reported for every run',
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
class Checkpoint(Section):
  """Checkpoints: how many are kept, and which one a run starts from."""

  prefix: ClassVar = 'checkpoint.'

  max_to_keep: int = setting(2, 'Newest checkpoints that are kept beside the best one.', above=0)
  memory_every: int = setting(
    0,
    'Steps between copies of the train state in the memory of the hosts, each with those of a neighbour: a run that '
    'loses a host repeats at most so many steps. 0: none.',
    at_least=0,
  )
  memory_folder: str = setting(
    '/dev/shm/recjax',
    'Folder of each host for these copies, in memory (a tmpfs). It outlives the processes, not the host.',
    path=True,
    filled=True,
  )
  init_from: str | None = setting(
    None, 'Workdir whose best checkpoint gives the initial parameters.', path=True
  )
  init_from_last: bool = setting(
    False, 'Take the newest checkpoint of checkpoint.init_from instead of the best one.'
  )
  init_sid_rows: str | None = setting(
    None,
    'Replaces the rows of SID tokens in the initial parameters: see model.sid_rows; also without a pretrained model. '
    'None: they stay.',
    one_of=SID_ROWS,
  )
  allow_new_stream: bool = setting(
    False,
    'Resume although the stream of examples changed; the stream then restarts from its first example.',
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      '://' not in self.memory_folder,
      'checkpoint.memory_folder must be a folder of each host, in its memory',
      self.memory_folder,
      'checkpoint.memory_folder',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile(Section):
  """Steps that the profiler traces. docs/goodput.md describes how to read a trace."""

  prefix: ClassVar = 'profile.'

  steps: tuple[int, ...] = setting(
    (), 'First and last step of the trace, such as (100, 104); empty: no trace.', above=0
  )
  hosts: str = setting('first', 'Hosts whose devices are traced.', one_of=('first', 'all'))
  folder: str | None = setting(
    None, 'Folder of the trace. None: profile in the workdir.', path=True
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      not self.steps or (len(self.steps) == 2 and self.steps[0] <= self.steps[1]),
      'profile.steps must be empty or the first and the last step, both counted from 1',
      self.steps,
      'profile.steps',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh(Section):
  """Devices along each axis of the mesh. One axis may be -1: it takes the remaining devices."""

  prefix: ClassVar = 'mesh.'

  data: int = setting(-1, 'Devices that share the rows of a batch and replicate parameters.')
  fsdp: int = setting(1, 'Devices that share the rows of a batch and shard parameters.')
  tensor: int = setting(1, 'Devices that share heads, feed-forward units and vocabulary.')
  dcn_data: int | None = setting(
    None,
    'Slices that exchange gradients alone, over the data-centre network (DCN); a divisor of mesh.data. None: the '
    'slices of a TPU multislice, otherwise 1. On GPUs: such as the number of nodes.',
    above=0,
  )

  def __post_init__(self):
    super().__post_init__()
    sizes = (self.data, self.fsdp, self.tensor)
    check(
      all(size > 0 or size == -1 for size in sizes) and sizes.count(-1) <= 1,
      'mesh axes must be positive, and at most one of them -1',
      sizes,
      'mesh.{data,fsdp,tensor}',
    )
    check(
      self.data == -1 or self.data % (self.dcn_data or 1) == 0,
      f'mesh.dcn_data must divide mesh.data ({self.data}), so that a slice holds all parameters',
      self.dcn_data,
      'mesh.dcn_data or mesh.data',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts(Section):
  """Time limits after which a run of several processes ends with an error, in seconds."""

  prefix: ClassVar = 'hosts.'

  start_timeout: float = setting(
    300.0, 'Seconds until all processes have found each other.', above=0
  )
  heartbeat_timeout: float = setting(100.0, 'Seconds without a heartbeat of a process.', above=0)
  barrier_timeout: float = setting(
    900.0, 'Seconds until all processes have reached a barrier.', above=0
  )
  step_timeout: float = setting(900.0, 'Seconds of one training step; 0: no limit.', at_least=0)
  phase_timeout: float = setting(
    3600.0,
    'Seconds of a phase that may compile, read or save: the first steps, a batch of a search, a '
    'restore, a save; 0: no limit.',
    at_least=0,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Section):
  """The config of one training without its data: the sections that a training step reads."""

  seed: int = setting(0, 'Seed of initial weights, dropout and the order of examples.', at_least=0)
  batch_size: int | None = setting(
    64,
    'Packed rows per step, over all hosts and micro-batches; a multiple of packing.rows. None: from the data, '
    'the square root of the rows of an epoch.',
    above=0,
  )
  num_train_steps: int | None = setting(
    1000,
    'Training steps. None: from num_epochs; without it from the data: 40 epochs, at most 12 million tokens.',
    above=0,
  )
  num_epochs: float | None = setting(
    None,
    'Epochs instead of num_train_steps, of which one must be None; a flag for one of them unsets the other. An '
    'epoch ends when every unit of the next_item component was seen once.',
    above=0,
  )
  grad_accumulation: int = setting(1, 'Micro-batches per step; must divide batch_size.', above=0)
  log_every_steps: int | None = setting(
    50,
    'Steps between progress lines; metrics.jsonl holds every step. None: eval_every_steps, at most 50.',
    above=0,
  )
  eval_every_steps: int | None = setting(
    500, 'Steps between evaluations. None: a twentieth of the steps.', above=0
  )
  checkpoint_every_steps: int | None = setting(
    500, 'Steps between checkpoints; an evaluation also saves one. None: eval_every_steps.', above=0
  )
  model: Model
  packing: Packing
  optim: Optim
  loss: Loss

  def __post_init__(self):
    super().__post_init__()
    check(
      None in (self.num_train_steps, self.num_epochs),
      f'num_epochs must be None where num_train_steps is set ({self.num_train_steps})',
      self.num_epochs,
      'num_epochs or num_train_steps, but only one of them',
    )
    # A value of None is not known before the data are prepared; then this check runs again.
    check(
      None in (self.batch_size, self.packing.rows) or self.batch_size % self.packing.rows == 0,
      f'batch_size counts rows and must be a multiple of packing.rows ({self.packing.rows})',
      self.batch_size,
      'batch_size',
    )
    check(
      self.batch_size is None or self.batch_size % self.grad_accumulation == 0,
      f'batch_size must be a multiple of grad_accumulation ({self.grad_accumulation})',
      self.batch_size,
      'batch_size',
    )
    warmup, steps = self.optim.warmup_steps, self.num_train_steps
    check(
      None in (warmup, steps) or warmup <= steps,
      f'optim.warmup_steps must not exceed num_train_steps ({steps})',
      warmup,
      'optim.warmup_steps',
    )
