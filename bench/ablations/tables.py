"""The tables of ablations: their rows, as shares of the mixture and settings over one base config."""

from collections.abc import Mapping, Sequence
import dataclasses

from recjax.schema.names import question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A row of a table: a variant of the base config.

  Attributes:
    name: its name.
    mixture: component → weight; the other components of the base config are turned off. None: the mixture of the
      base config.
    settings: field → value on the command line, without `config.`.
    against: name of the row that it is compared with. None: the first row.
    epochs: its number of epochs, as a multiple of that of the base. Of no effect on a base with a number of steps.
  """

  name: str
  mixture: Mapping[str, float] | None = None
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
  against: str | None = None
  epochs: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of ablations.

  Attributes:
    question: the question that it answers.
    base: value of --config; {data} stands for the name of a data set.
    rows: the rows; the first is the reference.
    settings: settings of all rows, as in `Row`.
  """

  question: str
  base: str
  rows: Sequence[Row]
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def chosen(self, names: Sequence[str]) -> 'Table':
    """Returns the table with the named rows alone, and the rows that they are compared with; no names: all.

    Raises:
      ValueError: there is no such row.
    """
    known = {row.name: row for row in self.rows}
    for name in names:
      if name not in known:
        raise ValueError(
          f'--rows must name rows of the table ({"; ".join(known)}); got {name!r}{question(name, known)}'
        )
    if not names:
      return self
    kept = {self.rows[0].name, *names}
    kept |= {known[name].against for name in kept}
    return dataclasses.replace(self, rows=[row for row in self.rows if row.name in kept])


def others(*tasks: str, share: float) -> dict[str, float]:
  """Returns a mixture of next_item and other tasks, which together get a share of the examples."""
  return {'next_item': 1 - share} | {task: share / len(tasks) for task in tasks}


def _all_of(*tasks: str) -> dict[str, float]:
  """Returns a mixture with the weight 1 for every task: with mixing.by=size all of their units once an epoch."""
  return dict.fromkeys(tasks, 1.0)


def _auxiliary(*tasks: str) -> dict[str, float]:
  """Returns the shares of recommendation tasks in configs/rec_knowledge.py; the given tasks share the rest equally."""
  recommendation = {'next_item': 4 / 6, 'ranking': 1 / 6, 'rating': 1 / 6}
  if not tasks:
    return recommendation
  kept = {task: 0.6 * share for task, share in recommendation.items()}
  return kept | {task: 0.4 / len(tasks) for task in tasks}


def _shares(name: str, mixture: Mapping[str, float]) -> Row:
  """Returns a row with as many examples as configs/{beauty,sports,toys}.py:cpu, of which .8 are next_item.

  An epoch is one of next_item, so it has epochs in proportion to its share of it.
  """
  return Row(name=name, mixture=mixture, epochs=mixture['next_item'] / 0.8)


_RELATIONS = ('collaborative_neighbours', 'semantic_neighbours')
_PREFERENCE = ('mim', 'bpr')
_IIRG = ('title_to_sid', 'next_item')  # the first is the stage before
_TS_REC = ('mlm', 'next_item', 'title_to_sid', 'sid_to_title', 'history_to_title')
_TS_ALIGN = ('token_to_description', 'description_to_token')

_SA_INIT = {'stages.sft.sid_rows': 'sa_init'}
# Of the last stage; the published learning rate is that of a pretrained model. It begins with the checkpoint that is
# evaluated in the row without it, and takes all of its steps.
_GRPO = {
  'kind': 'grpo',
  'start_from_best': 'True',
  'patience': '0',
  'num_train_steps': '150',
  'batch_size': '64',
  'learning_rate': '3e-4',
  'schedule': 'linear',
  'warmup_steps': '5',
  'grpo.group': '16',
  'grpo.kl': '0.01',
}

_NO_HEAD = {'model.item_head': 'False'}
_NO_MEMORY = {'eval.memory.counts': 'none'}
_NO_TEXTS = {'eval.text.vectors': 'none'}
_FLATTENED = {
  'model.family': 'gemma',
  'model.item_rows': 'False',
  'mixture.mim.prompts': "('Missing: {history}',)",
  'mixture.bpr.prompts': "('{history} Preferred: {candidates}',)",
  'mixture.collaborative_neighbours.prompts': "('With {item}:',)",
  'mixture.semantic_neighbours.prompts': "('Like {item}:',)",
}

TABLES = {
  # Every row sees next_item for the same number of epochs, so rows with relations take more steps. The control has
  # the same number of examples and steps as the row above it.
  'iirg': Table(
    question='Do the relation tasks of IIRG help, and does the relation matter or only the further examples?',
    base='configs/iirg.py:{data}-cpu',
    rows=(
      Row(name='next item alone', mixture=_all_of(*_IIRG)),
      Row(name='+ collaborative', mixture=_all_of(*_IIRG, 'collaborative_neighbours')),
      Row(name='+ semantic', mixture=_all_of(*_IIRG, 'semantic_neighbours')),
      Row(name='+ both', mixture=_all_of(*_IIRG, *_RELATIONS)),
      Row(
        name='+ both shuffled (control)',
        mixture=_all_of(*_IIRG, *_RELATIONS),
        settings={f'mixture.{task}.shuffle_seed': '0' for task in _RELATIONS},
      ),
    ),
  ),
  # Equal numbers of steps. In rows with auxiliary tasks the recommendation tasks have the same share, so these rows
  # differ in the kind of the other examples alone.
  'rec_knowledge': Table(
    question='Do the auxiliary tasks of Cao et al. help?',
    base='configs/rec_knowledge.py:{data}-cpu',
    rows=(
      Row(name='retrieval + ranking + rating', mixture=_auxiliary()),
      Row(name='+ MIM', mixture=_auxiliary('mim')),
      Row(name='+ BPR', mixture=_auxiliary('bpr')),
      Row(name='+ MLM', mixture=_auxiliary('mlm')),
      Row(name='+ all', mixture=_auxiliary('mim', 'bpr', 'mlm')),
    ),
  ),
  # Every row has the same first stage, which trains the text rows, and the same number of epochs of the second.
  'ts_rec': Table(
    question='Do initial rows from keywords (SA-Init) and the alignment tasks (TS-Align) of TS-Rec help?',
    base='configs/ts_rec.py:{data}-cpu-sft',
    rows=(
      *(
        Row(name=name, mixture=_all_of(*_TS_REC), settings={'stages.sft.sid_rows': rows})
        for name, rows in (('random rows', 'random'), ('mean rows', 'mean'), ('SA-Init', 'sa_init'))
      ),
      Row(
        name='SA-Init + TS-Align',
        mixture=_all_of(*_TS_REC, *_TS_ALIGN),
        settings=_SA_INIT,
        against='SA-Init',
      ),
    ),
  ),
  # The first row is the last one of ts_rec; the second trains its stages, and then by rewards.
  'grpo': Table(
    question='Does training by rewards (GRPO) help after the supervised stages?',
    base='configs/ts_rec.py:{data}-cpu-sft',
    rows=(
      Row(name='SA-Init + TS-Align', mixture=_all_of(*_TS_REC, *_TS_ALIGN), settings=_SA_INIT),
      Row(
        name='+ GRPO',
        mixture=_all_of(*_TS_REC, *_TS_ALIGN),
        settings=_SA_INIT | {f'stages.rl.{name}': value for name, value in _GRPO.items()},
      ),
    ),
  ),
  # Equal numbers of epochs of next_item. The flattened decoder has the width, depth and dropout of the recipe, and words
  # that tell its tasks apart. Rows without a score (memory, texts) train again: the ranking chooses their best checkpoint.
  'recipe': Table(
    question='Which part of the recipe of configs/{beauty,sports,toys}.py:cpu earns its place?',
    base='configs/{data}.py:cpu',
    rows=(
      Row(name='recipe'),
      Row(name='next item alone', mixture=_all_of('next_item')),
      Row(name='flattened decoder', settings=_FLATTENED),
      Row(name='no item head', settings=_NO_HEAD),
      Row(name='no memory', settings=_NO_MEMORY),
      Row(name='no texts', settings=_NO_TEXTS),
      Row(name='codes alone', settings=_NO_HEAD | _NO_MEMORY | _NO_TEXTS),
      Row(name='no item dropout', settings={'mixture.next_item.item_dropout': '0'}),
      Row(name='+ crops', settings={'mixture.next_item.crop': '0.5'}),
      Row(name='+ shuffles', settings={'mixture.next_item.shuffle': '0.3'}),
      Row(name='SIDs of texts', settings={'sids.source': 'text'}),
      Row(name='SIDs of co-occurrence', settings={'sids.source': 'cooccurrence'}),
    ),
  ),
  # Equal numbers of examples. 'recipe' is the mixture of the base, and shares its runs with the table above; 'default of
  # :flat' is that of the flattened decoders.
  'mixture': Table(
    question='Which shares of MIM, BPR and relation samples serve validation users best, at equal numbers of examples?',
    base='configs/{data}.py:cpu',
    rows=(
      _shares('next item alone', _all_of('next_item')),
      _shares('all 10%', others(*_PREFERENCE, *_RELATIONS, share=0.1)),
      Row(name='recipe'),
      _shares('all 30%', others(*_PREFERENCE, *_RELATIONS, share=0.3)),
      _shares('all 50%', others(*_PREFERENCE, *_RELATIONS, share=0.5)),
      _shares('relations 20%', others(*_RELATIONS, share=0.2)),
      _shares('MIM and BPR 20%', others(*_PREFERENCE, share=0.2)),
      _shares(
        'default of :flat',
        {'next_item': 0.7} | dict.fromkeys(_PREFERENCE, 0.1) | dict.fromkeys(_RELATIONS, 0.05),
      ),
    ),
  ),
}


def table(name: str) -> Table:
  """Returns a table by its name.

  Raises:
    ValueError: there is none.
  """
  if name not in TABLES:
    raise ValueError(
      f'--table must be one of {", ".join(TABLES)}; got {name!r}{question(name, TABLES)}'
    )
  return TABLES[name]
