"""Histories in, ranked items out: the search over a list of users, on any mesh."""

from collections.abc import Sequence
import json
import logging

from etils import epath
from flax import nnx
import jax
import numpy as np
from tqdm import tqdm

from recjax import config as config_lib
from recjax import lora, sharding
from recjax import state as state_lib
from recjax.data.dataset import Dataset
from recjax.data.tasks.next_item import NextItem
from recjax.decode.beam import beam_search
from recjax.sids.trie import Trie

log = logging.getLogger(__name__)

PROMPT_MULTIPLE = 32  # prompt lengths are rounded up to it, so that few shapes are compiled


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power_of_two(n: int, least: int = 16) -> int:
  return max(least, 1 << (max(n, 1) - 1).bit_length())


class Recommender:
  """Ranks the catalogue for histories with the model of a run."""

  def __init__(self, config: config_lib.Config, dataset: Dataset, mesh: jax.sharding.Mesh):
    shards = sharding.batch_shards(mesh)
    self._batch_size = _round_up(config.eval.batch_size, shards)
    self._mesh = mesh
    self._task = next_item_task(config, dataset)
    graph = state_lib.graph(config, dataset.vocabulary.space)
    trie = jax.tree.map(np.asarray, Trie.from_table(dataset.sids))

    def search(params, trie, prompts, excluded_BE):
      model = nnx.merge(graph, lora.merge(params, config.model.lora_alpha))
      return beam_search(
        model, trie, prompts, excluded_BE, config.eval.beams, config.model.sid_softmax
      )

    self._trie = jax.device_put(trie, sharding.replicated(mesh))
    self._search = jax.jit(search, out_shardings=sharding.replicated(mesh))

  def rank(
    self, params, histories: Sequence[np.ndarray], progress: str | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The best items for every history, each exactly once, whatever the batches and devices.

    Args:
      params: parameters on the mesh.
      histories: item indices of each user, oldest first; they are excluded from the ranking.
      progress: what the progress bar says; None for no bar.

    Returns:
      items int32 `[U, M]`, best first, -1 where nothing is left; and their log-probabilities.
    """
    U, B = len(histories), self._batch_size
    order = np.argsort([-len(history) for history in histories], kind='stable')
    items_UM = scores_UM = None
    bar = tqdm(total=U, desc=progress, unit=' users', disable=progress is None, leave=False)
    with bar, jax.set_mesh(self._mesh):
      for start in range(0, U, B):
        users = order[start : start + B]
        items_BM, scores_BM = self._rank_batch(params, [histories[u] for u in users])
        if items_UM is None:
          items_UM = np.full((U, items_BM.shape[1]), -1, np.int32)
          scores_UM = np.full((U, items_BM.shape[1]), -np.inf, np.float32)
        items_UM[users] = items_BM[: len(users)]
        scores_UM[users] = scores_BM[: len(users)]
        bar.update(len(users))
    return items_UM, scores_UM

  def _rank_batch(self, params, histories: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    prompts = [self._task.prompt(history) for history in histories]
    longest = max(len(prompt) for prompt in prompts)
    S = min(_round_up(longest, PROMPT_MULTIPLE), self._task.max_prompt_length)
    E = _power_of_two(max(len(history) for history in histories))
    tokens_BS = np.zeros((self._batch_size, S), np.int32)
    lengths_B = np.ones(self._batch_size, np.int32)  # rows without a user are one token long
    excluded_BE = np.full((self._batch_size, E), -1, np.int32)
    for b, (prompt, history) in enumerate(zip(prompts, histories, strict=True)):
      tokens_BS[b, : len(prompt)] = prompt
      lengths_B[b] = len(prompt)
      excluded_BE[b, : len(history)] = history
    mine = self._batch_size // jax.process_count()
    rows = slice(jax.process_index() * mine, (jax.process_index() + 1) * mine)
    batch = {'tokens': tokens_BS[rows], 'lengths': lengths_B[rows], 'excluded': excluded_BE[rows]}
    batch = sharding.host_rows(batch, self._mesh)
    excluded = batch.pop('excluded')
    return jax.device_get(self._search(params, self._trie, batch, excluded))


def next_item_task(config: config_lib.Config, dataset: Dataset) -> NextItem:
  """The task whose prompt the search continues: the mixture's next_item component.

  Raises:
    ValueError: the mixture has none.
  """
  components = [c for c in config.mixture.values() if c.task == 'next_item']
  config_lib.check(
    bool(components),
    'the mixture must hold a next_item component: its prompt is what recommendations continue',
    sorted(config.mixture),
    'mixture.<name>.task',
  )
  return NextItem(components[0], dataset, config.model.is_encoder_decoder)


def read_histories(path: epath.PathLike, dataset: Dataset) -> list[dict]:
  """Lines of JSON, each an object with `history`: raw item ids, oldest first; other keys are kept.

  Returns:
    The objects, with the item indices of the history under `items`.

  Raises:
    ValueError: a line is not such an object, or names an item that the catalogue lacks.
  """
  index = {item['id']: i for i, item in enumerate(dataset.items)}
  rows = []
  for n, line in enumerate(epath.Path(path).read_text().splitlines(), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as e:
      raise ValueError(f'{path}:{n}: a line must be a JSON object; {e}') from e
    if not isinstance(row, dict) or not isinstance(row.get('history'), list):
      raise ValueError(
        f'{path}:{n}: a line must be an object with a list "history"; got {line[:80]}'
      )
    unknown = [item for item in row['history'] if item not in index]
    if unknown:
      raise ValueError(f'{path}:{n}: every item must be in the catalogue; {unknown[0]!r} is not')
    rows.append(row | {'items': np.array([index[item] for item in row['history']], np.int32)})
  return rows


def recommend_file(
  recommender: Recommender, params, dataset: Dataset, histories: str, out: str, k: int
) -> None:
  """Reads histories, ranks items for each, and writes lines of JSON with `recommendations`."""
  rows = read_histories(histories, dataset)
  if not rows:
    raise ValueError(f'{histories} must hold at least one history; it is empty. Set --histories')
  items_UM, scores_UM = recommender.rank(params, [row.pop('items') for row in rows], 'recommend')
  lines = []
  for row, items, scores in zip(rows, items_UM[:, :k], scores_UM[:, :k], strict=True):
    ranked = [
      {'item': dataset.items[i]['id'], 'title': dataset.items[i].get('title'), 'score': float(s)}
      for i, s in zip(items, scores, strict=True)
      if i >= 0
    ]
    lines.append(json.dumps(row | {'recommendations': ranked}))
  if jax.process_index() == 0:
    target = epath.Path(out)
    partial = target.with_name(target.name + '.partial')
    partial.write_text('\n'.join(lines) + '\n')
    partial.replace(target)
    log.info('%d histories -> %s', len(rows), out)
