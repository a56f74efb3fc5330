"""Histories in, ranked items out: the search over a list of users, on any mesh."""

from collections.abc import Mapping, Sequence
import json
import logging
import math
from typing import Any, NamedTuple

from etils import epath
from flax import nnx
import jax
import numpy as np
from tqdm import tqdm

from recjax import config as config_lib
from recjax import models
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.models import lora
from recjax.runtime import preemption, watchdog
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import state as state_lib

log = logging.getLogger(__name__)

PROMPT_MULTIPLE = 32  # prompt lengths are rounded up to it, so that few shapes are compiled


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power_of_two(n: int, least: int = 16) -> int:
  return max(least, 1 << (max(n, 1) - 1).bit_length())


def make_search(config: config_lib.Config, space: TokenSpace):
  """The pure search: (params, trie, prompts, excluded_BE) -> (items_BM, scores_BM); see `beam_search`."""
  graph = state_lib.graph(config.model, space)

  def search(params, trie, prompts, excluded_BE):
    model = nnx.merge(graph, lora.merge(params, config.model.lora_alpha))
    return beam_search(
      model, trie, prompts, excluded_BE, config.eval.beams, config.model.sid_softmax
    )

  return search


class Recommender:
  """Ranks the catalogue for histories with the model of a run."""

  def __init__(self, config: config_lib.Config, dataset: Dataset, mesh: jax.sharding.Mesh):
    shards = mesh_lib.batch_shards(mesh)
    self._batch_size = _round_up(config.eval.batch_size, shards)
    self._mesh = mesh
    self._exclude_seen = config.eval.exclude_seen
    self._seconds = config.hosts.phase_timeout  # a batch of another length is compiled first
    self._task = config_lib.next_item_component(config)
    self._corpus = Corpus(dataset, models.family(config.model).is_encoder_decoder)
    popularity_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
    trie = jax.tree.map(np.asarray, Trie.from_table(dataset.sids, popularity_I))

    self._trie = jax.device_put(trie, mesh_lib.replicated(mesh))
    search = make_search(config, dataset.vocabulary.space)
    self._search = jax.jit(search, out_shardings=mesh_lib.replicated(mesh))

  @property
  def columns(self) -> tuple[str, ...]:
    """What prompts say of an interaction beside its item: of times and events, those that training shows."""
    return tuple(sorted(self._task.needs & {'times', 'events'}))

  def rank(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """The best items for every history, each exactly once, whatever the batches and devices.

    Args:
      params: parameters on the mesh.
      histories: item indices of each user, oldest first; they are excluded from the ranking unless
        `eval.exclude_seen` is off.
      progress: what the progress bar says; None for no bar.
      known: of each history, by name of `columns`, a value an item; None: nothing is known.

    Returns:
      items int32 `[U, M]`, best first, -1 where nothing is left; and their log-probabilities.
    """
    U, B = len(histories), self._batch_size
    order = np.argsort([-len(history) for history in histories], kind='stable')
    items_UM = scores_UM = None
    is_shown = progress is not None and jax.process_index() == 0
    bar = tqdm(total=U, desc=progress, unit=' users', disable=not is_shown, leave=False)
    with bar, jax.set_mesh(self._mesh):
      for start in range(0, U, B):
        preemption.check()
        users = order[start : start + B]
        prompts = [self._prompt(histories[u], known[u] if known else {}) for u in users]
        with watchdog.expect(f'ranking users {start} to {start + B} of {U}', self._seconds):
          items_BM, scores_BM = self._rank_batch(params, [histories[u] for u in users], prompts)
        if items_UM is None:
          items_UM = np.full((U, items_BM.shape[1]), -1, np.int32)
          scores_UM = np.full((U, items_BM.shape[1]), -np.inf, np.float32)
        items_UM[users] = items_BM[: len(users)]
        scores_UM[users] = scores_BM[: len(users)]
        bar.update(len(users))
    return items_UM, scores_UM

  def _prompt(self, history: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    return self._task.inference_prompt(
      self._corpus, history, known.get('times'), known.get('events')
    )

  def _rank_batch(
    self, params, histories: list[np.ndarray], prompts: list[np.ndarray]
  ) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(prompt) for prompt in prompts)
    S = min(_round_up(longest, PROMPT_MULTIPLE), self._task.max_prompt_length(self._corpus))
    E = _power_of_two(max(len(history) for history in histories))
    tokens_BS = np.zeros((self._batch_size, S), np.int32)
    lengths_B = np.ones(self._batch_size, np.int32)  # rows without a user are one token long
    excluded_BE = np.full((self._batch_size, E), -1, np.int32)
    for b, (prompt, history) in enumerate(zip(prompts, histories, strict=True)):
      tokens_BS[b, : len(prompt)] = prompt
      lengths_B[b] = len(prompt)
      if self._exclude_seen:
        excluded_BE[b, : len(history)] = history
    batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
    batch = mesh_lib.global_rows(batch, self._mesh)
    excluded = batch.pop('excluded')
    return jax.device_get(self._search(params, self._trie, batch, excluded))


class Row(NamedTuple):
  """A line of histories: the object, its history as item indices, and what is known of its items."""

  fields: dict[str, Any]
  items: np.ndarray
  known: dict[str, np.ndarray]


def read_histories(
  path: epath.PathLike,
  dataset: Dataset,
  columns: tuple[str, ...] = (),
  skip_unknown: bool = False,
) -> list[Row]:
  """Lines of JSON, each an object with `history`: raw item ids, oldest first; other keys are kept.

  An id that the log has as a number may be a number here.

  Args:
    path: the file.
    dataset: for its catalogue.
    columns: what prompts say of an interaction beside its item: `times` (seconds since 1970) and `events`
      (names) are read where a line has them.
    skip_unknown: leave out items that the catalogue does not have (any more) and list them under `unknown`,
      instead of refusing the line.

  Raises:
    ValueError: a line is not such an object, or names an item or event that the data lack.
  """
  events = {name: i for i, name in enumerate(dataset.event_names)}
  index = {item['id']: i for i, item in enumerate(dataset.items)}
  rows = []
  # Not splitlines: JSON's strings may hold characters that it takes for ends of lines.
  for n, line in enumerate(epath.Path(path).read_bytes().split(b'\n'), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line.decode('utf-8-sig'))
    except ValueError as e:
      raise ValueError(f'{path}:{n}: a line must be a JSON object; {e}') from e
    if not isinstance(row, dict) or not isinstance(row.get('history'), list):
      raise ValueError(
        f'{path}:{n}: a line must be an object with a list "history"; got {line[:80]!r}'
      )
    row['history'] = [str(i) if type(i) is int else i for i in row['history']]
    if skip_unknown:
      row = _without_unknown(row, index, columns)
    items = _indices(row['history'], index, 'item', 'in the catalogue', f'{path}:{n}')
    known = {}
    for name in (name for name in columns if name in row):
      values = row[name]
      if not isinstance(values, list) or len(values) != len(items):
        raise ValueError(f'{path}:{n}: {name} must be a list of one value an item of the history')
      if name == 'events':
        known[name] = _indices(values, events, 'event', 'one of the log', f'{path}:{n}')
      elif all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        known[name] = np.array(values, np.int64)
      else:
        raise ValueError(f'{path}:{n}: times must be numbers of seconds; got {str(values)[:80]}')
    rows.append(Row(row, items, known))
  return rows


def _without_unknown(
  row: dict[str, Any], index: Mapping[str, int], columns: tuple[str, ...]
) -> dict[str, Any]:
  """The row without the items that are not in the index, which it lists under `unknown`."""
  history = row['history']
  known = [isinstance(item, str) and item in index for item in history]
  if all(known):
    return row
  aligned = [
    name
    for name in ('history', *columns)
    if isinstance(row.get(name), list) and len(row[name]) == len(history)
  ]
  kept = {
    name: [value for value, on in zip(row[name], known, strict=True) if on] for name in aligned
  }
  unknown = [item for item, on in zip(history, known, strict=True) if not on]
  return row | kept | {'unknown': unknown}


def _indices(
  values: list, index: Mapping[str, int], what: str, must: str, where: str
) -> np.ndarray:
  for value in values:
    if not isinstance(value, str) or value not in index:
      raise ValueError(f'{where}: every {what} must be {must}; {value!r} is not')
  return np.array([index[value] for value in values], np.int32)


def recommend_file(
  recommender: Recommender,
  params,
  dataset: Dataset,
  histories: str,
  out: str,
  k: int,
  skip_unknown: bool = False,
) -> None:
  """Reads histories, ranks items for each, and writes lines of JSON with `recommendations`."""
  target = epath.Path(out)
  if jax.process_index() == 0:
    target.parent.mkdir(parents=True, exist_ok=True)
  rows = read_histories(histories, dataset, recommender.columns, skip_unknown)
  unknown = [len(row.fields['unknown']) for row in rows if 'unknown' in row.fields]
  if unknown:
    log.warning(
      '%d items of %d histories are not in the catalogue and were left out',
      sum(unknown),
      len(unknown),
    )
  if not rows:
    raise ValueError(f'{histories} must hold at least one history; it is empty. Set --histories')
  items_UM, scores_UM = recommender.rank(
    params, [row.items for row in rows], 'recommend', [row.known for row in rows]
  )
  lines = []
  for row, items, scores in zip(rows, items_UM[:, :k], scores_UM[:, :k], strict=True):
    ranked = [
      {'item': dataset.items[i]['id'], 'title': dataset.items[i].get('title'), 'score': float(s)}
      for i, s in zip(items, scores, strict=True)
      if i >= 0
    ]
    lines.append(json.dumps(row.fields | {'recommendations': ranked}))
  if jax.process_index() == 0:
    partial = target.with_name(target.name + '.partial')
    partial.write_text('\n'.join(lines) + '\n')
    partial.replace(target)
    log.info('%d histories -> %s', len(rows), out)
