"""Ranking: the target among candidates, by exact log-probabilities and by the answer to the model's own prompt."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

from etils import epath
import jax
import numpy as np

from recjax.baselines.candidates import CANDIDATE_BASELINES
from recjax.baselines.split import Split
from recjax.data import candidates as candidates_lib
from recjax.data.corpus import NEGATIVES, Corpus
from recjax.data.dataset import SPLITS
from recjax.data.sequences import Sequences, offsets_of
from recjax.data.tasks.base import Component
from recjax.data.tasks.preference import Ranking as RankingTask
from recjax.decode.batches import over_prompts
from recjax.decode.ranker import make_search
from recjax.decode.scores import Scorer
from recjax.metrics import ranking, rivals
from recjax.metrics.candidates import Places, candidate_metrics, metric_names
from recjax.metrics.evaluators.base import Context, Evaluator, Result
from recjax.metrics.ratings import named
from recjax.schema.checks import check, setting
from recjax.schema.run import Eval
from recjax.sharding import mesh as mesh_lib


class Asked(NamedTuple):
  """What the model's own ranking prompt gives: candidates, their scores `[R, N]`, and the answered items `[R]`."""

  candidates_RN: np.ndarray
  scores_RN: np.ndarray
  answers_R: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking(Evaluator):
  """Ranks candidates, of which the target is one: hit@k, ndcg@k, mrr and auc; for baselines on the same candidates too.

  The score of a candidate is the exact log-probability of its semantic ID after the prompt of next_item. The other
  candidates are drawn for each row, or given in a file. `eval.exclude_seen` has no effect.

  With `answer`, the model's own ranking prompt is asked too, with as many of the candidates as the task has in training:
  the target and the first of the others, in random order. `answer_hit@k` and so on rank them by the exact
  log-probability that the answer names them (first). `answers_without_candidate` counts the greedy answers, among all
  items of the catalogue, that name none of them; `answer_accuracy` is the share that names the target.
  """

  evaluator: str = 'ranking'
  candidates: int = setting(100, 'Candidates of a row, the target among them.', at_least=2)
  negatives: str = setting('popularity', 'How the others are drawn.', one_of=NEGATIVES)
  seed: int = setting(0, 'Seed of the drawn candidates.', at_least=0)
  file: str | None = setting(
    None,
    'JSON lines or Parquet with `user` or `row`, `candidates` (raw item ids) and optionally `split`, instead of drawn '
    'candidates. Other rows are not evaluated.',
    path=True,
  )
  ks: tuple[int, ...] = setting((1, 5, 10), 'Cut-offs of hit and ndcg.', above=0)
  answer: bool = setting(False, 'Ask the prompt of the ranking component of the mixture too.')

  task = 'next_item'
  item_columns: ClassVar[tuple[str, ...]] = ('items', 'answer')

  def __post_init__(self):
    super().__post_init__()
    self.check_field(
      self.file is not None or max(self.ks, default=1) <= self.candidates,
      f'must not exceed the number of candidates ({self.candidates})',
      'ks',
    )

  def check(self, components: Mapping[str, Component]) -> None:
    super().check(components)
    is_file = self.file is None or epath.Path(self.file).is_file()
    self.check_field(is_file, 'must be a file', 'file')
    check(
      not self.answer or any(isinstance(c, RankingTask) for c in components.values()),
      f'{self.prefix}answer needs an active component with the task ranking in the mixture',
      {name: c.task for name, c in components.items()},
      f'mixture.ranking.weight, or {self.prefix}answer=False',
    )

  def check_corpus(self, corpus: Corpus) -> None:
    if self.file is not None:
      candidates_lib.read(self.file, corpus.dataset, f'{self.prefix}file')
    else:
      candidates_lib.check_room(corpus.dataset, self.candidates, f'{self.prefix}candidates')

  def measured_rows(self, context: Context, split: str) -> np.ndarray | None:
    return None if self.file is None else np.array(list(self._read(context)[split]), np.int64)

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    names = metric_names(self.ks)
    return names + tuple(named('answer', dict.fromkeys(names))) if self.answer else names

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    rows, candidates_RN = self._candidates(context, split, rows)
    if not len(rows):
      return Result({'rows': 0}, rows)
    histories, known = context.histories(split, rows)
    prompts = [context.ranker.prompt(*pair) for pair in zip(histories, known, strict=True)]
    scores_RN = _scores(context, prompts, candidates_RN, f'rank candidates, {split}')
    baseline_input = rivals.split_of(context.dataset, split, rows, k=1)
    metrics = self._metrics(scores_RN, candidates_RN, baseline_input)
    order_RN = np.argsort(-scores_RN, axis=1, kind='stable')
    predictions = {
      'items': np.take_along_axis(candidates_RN, order_RN, axis=1),
      'scores': np.take_along_axis(scores_RN, order_RN, axis=1),
      **_place_columns(scores_RN, candidates_RN),
    }
    sids_RN = context.dataset.sids.sid_I[np.maximum(candidates_RN, 0)]
    shares = (sids_RN[:, 1:] == sids_RN[:, :1]) & (candidates_RN[:, 1:] >= 0)
    metrics |= {'rows': len(rows), 'rows_sharing_a_sid': int(shares.any(axis=1).sum())}
    if self.answer:
      asked = self._ask(context, split, rows, candidates_RN, histories)
      found = self._metrics(asked.scores_RN, asked.candidates_RN, baseline_input)
      is_named = asked.answers_R[:, None] == asked.candidates_RN
      metrics |= named('answer', found) | {
        'answer_candidates': asked.candidates_RN.shape[1],
        **ranking.mean_and_error('answer_accuracy', is_named[:, 0].astype(np.float64)),
        'answers_without_candidate': int((~is_named.any(axis=1)).sum()),
      }
      columns = _place_columns(asked.scores_RN, asked.candidates_RN)
      predictions |= {'answer': asked.answers_R} | named('answer', columns)
    return Result(metrics, rows, predictions)

  def _candidates(
    self, context: Context, split: str, rows: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that have candidates, and these, the target first: int32 `[R, N]`, padded with -1."""
    if self.file is None:
      drawn = candidates_lib.draw(
        context.corpus, split, rows, self.candidates, self.negatives, self.seed
      )
      return rows, drawn
    return candidates_lib.table(self._read(context)[split], rows)

  def _read(self, context: Context) -> dict[str, dict[int, np.ndarray]]:
    read = functools.partial(candidates_lib.read, self.file, context.dataset, f'{self.prefix}file')
    return context.once(('candidates', self.file), read)

  def _metrics(
    self, scores_RN: np.ndarray, candidates_RN: np.ndarray, baseline_input: Split
  ) -> dict[str, float]:
    """Returns the metrics of the model, and under `<baseline>_` those of every baseline."""
    is_candidate = candidates_RN >= 0
    metrics = candidate_metrics(Places.of(scores_RN, is_candidate), self.ks)
    for name, score in CANDIDATE_BASELINES.items():
      places = Places.of(score(baseline_input, candidates_RN), is_candidate)
      metrics |= named(name, candidate_metrics(places, self.ks))
    return metrics

  def _ask(
    self,
    context: Context,
    split: str,
    rows: np.ndarray,
    candidates_RN: np.ndarray,
    histories: list[np.ndarray],
  ) -> Asked:
    """Asks the ranking component's own prompt."""
    component = context.component('ranking')
    chosen_RN = candidates_RN[:, : component.candidates]
    prompts = []
    for row, history, chosen in zip(rows.tolist(), histories, chosen_RN, strict=True):
      rng = np.random.default_rng([self.seed, SPLITS.index(split), row, 1])
      shown = rng.permutation(chosen[chosen >= 0])
      prompts.append(component.inference_prompt(context.corpus, history, shown))
    scores_RN = _scores(context, prompts, chosen_RN, f'ask for the best candidate, {split}')
    answers_R = _answers(context, prompts, f'answer the ranking prompt, {split}')
    return Asked(chosen_RN, scores_RN, answers_R)


def _place_columns(scores_RN: np.ndarray, candidates_RN: np.ndarray) -> dict[str, np.ndarray]:
  places = Places.of(scores_RN, candidates_RN >= 0)
  return {'ahead': places.ahead_U, 'tied': places.tied_U, 'others': places.others_U}


def _scores(
  context: Context, prompts: list[np.ndarray], candidates_RN: np.ndarray, progress: str
) -> np.ndarray:
  """Returns the log-probability of every candidate's semantic ID, float32 `[R, N]`, -inf for padding.

  Candidates of one semantic ID have the score of the first of them, bit for bit.
  """
  sids_IL = context.corpus.sid_tokens_IL
  I, L = sids_IL.shape  # noqa: E741

  def make() -> Scorer:
    return Scorer(
      context.model,
      context.dataset.vocabulary.space,
      Sequences(sids_IL.ravel(), offsets_of(np.full(I, L))),
      context.mesh,
      context.settings.batch_size,
      context.limits.phase_timeout,
    )

  scorer = context.once(('ranking', 'scorer'), make)
  scores_RN = scorer.score(context.params, prompts, candidates_RN, progress)
  if context.dataset.sids.sharing_items:
    sids_RN = np.where(candidates_RN < 0, -1, context.dataset.sids.sid_I[candidates_RN])
    for row, sids_N in enumerate(sids_RN):
      _, first, inverse = np.unique(sids_N, return_index=True, return_inverse=True)
      scores_RN[row] = scores_RN[row, first[inverse]]
  return scores_RN


def _answers(context: Context, prompts: list[np.ndarray], progress: str) -> np.ndarray:
  """Returns the item that the model names after every prompt, among all items of the catalogue, int32 `[R]`.

  It is the greedy answer; of items that share the semantic ID, the most popular one.
  """

  def make() -> Any:
    search = make_search(context.model, context.dataset.vocabulary.space, beams=1)
    return jax.jit(search, out_shardings=mesh_lib.replicated(context.mesh))

  search = context.once(('ranking', 'answers'), make)

  def best(batch: dict[str, jax.Array]) -> jax.Array:
    prompts = {name: batch[name] for name in ('tokens', 'lengths')}
    return search(context.params, context.ranker.trie, prompts, batch['excluded'])[0][:, 0]

  return over_prompts(
    *(best, prompts, context.mesh, context.settings.batch_size),
    columns=lambda rows_B: {'excluded': np.full((len(rows_B), 1), -1, np.int32)},
    timeout=context.limits.phase_timeout,
    progress=progress,
  )
