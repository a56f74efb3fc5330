"""The base class of evaluators, the context that they read, and their result."""

import abc
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks.base import Component
from recjax.decode.blend import Weights
from recjax.decode.ranker import Ranker
from recjax.metrics.ranked import Ranked
from recjax.schema.checks import Section, called, check, setting
from recjax.schema.model import Model
from recjax.schema.run import Eval, Hosts


def sample_rows(num_rows: int, size: int | None, seed: int) -> np.ndarray:
  """Returns a fixed sample of the rows of a split: sorted row numbers, int64. A size of None: all rows."""
  if size is None or size >= num_rows:
    return np.arange(num_rows)
  return np.sort(np.random.default_rng(seed).choice(num_rows, size, replace=False))


@dataclasses.dataclass(frozen=True)
class Context:
  """The run that evaluators read: its settings, data, model and parameters.

  Attributes:
    model: the model of the run.
    settings: the eval section.
    limits: time limits; a batch may take `phase_timeout` seconds.
    seed: seed of the run; the validation sample during training and the masked places depend on it.
    components: the active components of the mixture, by name.
    dataset: the prepared data.
    corpus: the same data as tokens.
    mesh: the devices.
    ranker: the search.
    params: parameters on the mesh.
    weights: those of the scores in a ranking. None: an evaluation of validation rows chooses them.
  """

  model: Model
  settings: Eval
  limits: Hosts
  seed: int
  components: Mapping[str, Component]
  dataset: Dataset
  corpus: Corpus
  mesh: jax.sharding.Mesh
  ranker: Ranker
  params: Any = None
  weights: Weights | None = None
  _made: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def with_params(self, params: Any) -> 'Context':
    """Returns the context of other parameters; it shares the compiled programs, see `once`."""
    return dataclasses.replace(self, params=params)

  def with_weights(self, weights: Weights | None) -> 'Context':
    """Returns the context with weights of the scores; None: they are still to be chosen."""
    return dataclasses.replace(self, weights=weights)

  def once(self, key: Any, make: Callable[[], Any]) -> Any:
    """Returns `make()` of the first call with this key: a program is compiled once for all evaluations of a run.

    Args:
      key: hashable, such as ('scores', the fields that the program depends on).
      make: makes an object that does not depend on `params`.
    """
    if key not in self._made:
      self._made[key] = make()
    return self._made[key]

  def component(self, *tasks: str, name: str | None = None) -> Component:
    """Returns the active component that an evaluator asks; see `Evaluator.check_component`.

    Args:
      *tasks: the tasks that it may have; earlier ones are preferred.
      name: its name. None: of the preferred task, the component with the largest final weight; the first of several.
    """
    if name is not None:
      return self.components[name]
    found = [component for component in self.components.values() if component.task in tasks]
    return max(found, key=lambda each: (-tasks.index(each.task), each.final_weight))

  def histories(
    self, split: str, rows: np.ndarray, columns: tuple[str, ...] | None = None
  ) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Returns the histories of rows, and their other columns; see `history_rows`.

    Args:
      split: 'validation' or 'test'.
      rows: row numbers of the split.
      columns: names of the columns. None: those that the ranker reads.
    """
    columns = self.ranker.columns if columns is None else columns
    return history_rows(self.dataset, split, rows, columns)


def history_rows(
  dataset: Dataset, split: str, rows: np.ndarray, columns: tuple[str, ...]
) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
  """Returns the histories of rows as item indices, oldest first, and for each its columns by name.

  `times` are in seconds since 1970, as in a file of histories. Columns that the data lack are left out.
  """
  histories, _ = dataset.histories_and_targets(split)
  found = {name: dataset.history_column(split, name) for name in columns}
  found = {name: values for name, values in found.items() if values is not None}
  slices = [slice(histories.offsets[row], histories.offsets[row + 1]) for row in rows]
  known = [{name: values[s] for name, values in found.items()} for s in slices]
  if 'times' in found:
    for shown in known:
      shown['times'] = shown['times'] / dataset.ticks_per_second
  return [histories.values[s] for s in slices], known


@dataclasses.dataclass(frozen=True)
class Result:
  """What an evaluator found on R rows of a split.

  Attributes:
    metrics: numbers by name: every metric with its standard error `<metric>_stderr`, and counts.
    rows: row numbers of the split, int64 `[R]`.
    predictions: columns of R entries, for predictions/<split>/<name>.parquet: numbers, strings, or item indices
      `[R]` or `[R, K]` for the names in `Evaluator.item_columns`. User and target of the row are added by the writer, and the
      columns items, scores and rank of `ranked`.
    ranked: ranked items of the rows. None: the evaluator ranks no catalogue.
    rankers: the same rows ranked by one score of the model, by name: `codes`, `head`; see `recjax.decode.blend.alone`.
    weights: those of the scores in `ranked`. None: the evaluator ranks no catalogue.
  """

  metrics: dict[str, float]
  rows: np.ndarray
  predictions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  ranked: Ranked | None = None
  rankers: Mapping[str, Ranked] = dataclasses.field(default_factory=dict)
  weights: Weights | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Section, abc.ABC):
  """An evaluator of the config: it measures the model on held-out rows.

  Each subclass is a type. Its docstring tells what is measured, and on which rows.
  All processes of a run call `evaluate` with the same arguments and compute; host 0 writes the result. Loops over
  batches call `preemption.check` before a batch and put it under `watchdog.expect`, as `Ranker.rank` does.
  """

  evaluator: str = setting(meaning='A name of recjax.metrics.evaluators.EVALUATORS.')
  rows: int | None = setting(
    None, 'Rows of a split that the full evaluation measures, a fixed sample. None: all.', above=0
  )

  task: ClassVar[str | None] = None  # that must be in the mixture
  lower_is_better: ClassVar[frozenset[str]] = frozenset()  # metrics that are better if lower
  # Predictions that hold item indices; -1: none.
  item_columns: ClassVar[tuple[str, ...]] = ('items',)

  @property
  def prefix(self) -> str:
    """The evaluator's generic path in the config; `called` replaces it by the evaluator's name."""
    return f'evaluators.<{self.evaluator}>.'

  @classmethod
  @contextlib.contextmanager
  def called(cls, path: str):
    """Makes errors raised inside the block name the evaluator's fields by `path`, such as 'evaluators.hard'."""
    with called(f'evaluators.<{cls.evaluator}>', path):
      yield

  def check_field(self, condition: bool, must: str, name: str) -> None:
    """Raises a ValueError unless the condition holds; `must` follows the field's name in the message."""
    check(condition, f'{self.prefix}{name} {must}', getattr(self, name), self.prefix + name)

  def check(self, components: Mapping[str, Component]) -> None:
    """Checks, before any data are read, that the mixture trains the task that the evaluator asks.

    Args:
      components: the active components of the mixture, by name.

    Raises:
      ValueError: no component has the task.
    """
    if self.task is not None:
      self.check_component(components, (self.task,))

  def check_component(
    self, components: Mapping[str, Component], tasks: tuple[str, ...], name: str | None = None
  ) -> None:
    """Checks that the mixture has the component of `Context.component`.

    Args:
      components: the active components of the mixture, by name.
      tasks: the tasks that it may have.
      name: value of the evaluator's field `component`.

    Raises:
      ValueError: there is no such component, or it has another task.
    """
    found = [each for each, component in components.items() if component.task in tasks]
    allowed = ' or '.join(tasks)
    if not found:
      present = ', '.join(f'{each} ({c.task})' for each, c in components.items())
      raise ValueError(
        f'{self.prefix.removesuffix(".")} needs an active component with the task {allowed} in the mixture; it has '
        f'{present}. Set --config.mixture.{tasks[0]}.weight, or leave the evaluator out'
      )
    if name is not None:
      must = f'must name an active component with the task {allowed} ({", ".join(found)})'
      self.check_field(name in found, must, 'component')

  def check_corpus(self, corpus: Corpus) -> None:
    """Checks, before the first step, that the data set supports the evaluator.

    Raises:
      ValueError: it does not.
    """

  def measured_rows(self, context: Context, split: str) -> np.ndarray | None:
    """Returns the rows of a split that the evaluator can measure, int `[n]`. None: all."""

  @abc.abstractmethod
  def metrics(self, settings: Eval) -> tuple[str, ...]:
    """Returns the names of the metrics that may choose the checkpoint, as `evaluate` gives them.

    Args:
      settings: the eval section, which has the cut-offs.
    """

  @abc.abstractmethod
  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    """Measures the model on rows of a split.

    Args:
      context: the run.
      split: 'validation' or 'test'.
      rows: row numbers of the split, ascending, int64.
    """
