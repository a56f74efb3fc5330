"""The tables of ablations: their rows, as shares of the mixture and settings over one base config."""

from collections.abc import Mapping, Sequence
import dataclasses

from recjax.schema.names import question

# Tasks beside next_item get this share of the examples in every row that has them. So the share of next_item is the
# same in all of these rows, and they differ in the kind of the other tasks alone.
OTHERS = 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A row of a table: a variant of the base config.

  Attributes:
    name: its name.
    mixture: task → share of the examples; the other components of the base config are turned off. None: the mixture of the
      base config.
    settings: field → value on the command line, without `config.`.
    against: name of the row that it is compared with. None: the first row.
  """

  name: str
  mixture: Mapping[str, float] | None = None
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
  against: str | None = None


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


def others(*tasks: str, share: float = OTHERS) -> dict[str, float]:
  """Returns a mixture of next_item and other tasks, which together get a share of the examples."""
  return {'next_item': 1 - share} | {task: share / len(tasks) for task in tasks}


_ALONE = {'next_item': 1.0}
_RELATIONS = ('collaborative_neighbours', 'semantic_neighbours')
_PREFERENCE = ('mim', 'bpr')
_SHUFFLED = {f'mixture.{task}.shuffle_seed': '0' for task in _RELATIONS}

TABLES = {
  'iirg': Table(
    question='Do the relation tasks of IIRG help, and does the relation matter or only the further examples?',
    base='configs/{data}.py:cpu',
    rows=(
      Row(name='next item alone', mixture=_ALONE),
      Row(name='+ collaborative', mixture=others('collaborative_neighbours')),
      Row(name='+ semantic', mixture=others('semantic_neighbours')),
      Row(name='+ both', mixture=others(*_RELATIONS)),
      Row(name='+ both shuffled (control)', mixture=others(*_RELATIONS), settings=_SHUFFLED),
    ),
  ),
  'rec_knowledge': Table(
    question='Do the auxiliary tasks of Cao et al. help?',
    base='configs/{data}.py:cpu',
    rows=(
      Row(name='next item alone', mixture=_ALONE),
      Row(name='+ MIM', mixture=others('mim')),
      Row(name='+ BPR', mixture=others('bpr')),
      Row(name='+ MLM', mixture=others('mlm')),
      Row(name='+ all', mixture=others('mim', 'bpr', 'mlm')),
    ),
  ),
  'ts_rec': Table(
    question='Do initial rows from keywords (SA-Init) and the alignment tasks (TS-Align) of TS-Rec help?',
    base='configs/{data}.py:cpu',
    rows=(
      Row(name='random rows', settings={'model.sid_rows': 'random'}),
      Row(name='mean rows', settings={'model.sid_rows': 'mean'}),
      Row(name='SA-Init', settings={'model.sid_rows': 'sa_init'}),
      Row(
        name='SA-Init + TS-Align',
        mixture=others('token_to_description', 'description_to_token', share=0.1),
        settings={'model.sid_rows': 'sa_init'},
        against='SA-Init',
      ),
    ),
  ),
  'mixture': Table(
    question='Which mixture of tasks serves validation users best at this budget?',
    base='configs/{data}.py:cpu',
    rows=(
      Row(name='next item alone', mixture=_ALONE),
      *(
        Row(name=f'all {share:.0%}', mixture=others(*_PREFERENCE, *_RELATIONS, share=share))
        for share in (0.1, 0.25, 0.5)
      ),
      Row(name='relations 25%', mixture=others(*_RELATIONS, share=0.25)),
      Row(name='MIM and BPR 25%', mixture=others(*_PREFERENCE, share=0.25)),
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
