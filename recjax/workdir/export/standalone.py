"""Recommends items with the model in this folder. Needs torch and transformers, and nothing of recjax.

As a command: every line of a file is a JSON object with "history", raw item ids, oldest first.

  python recommend.py --histories=histories.jsonl --out=ranked.jsonl --k=10

As a module, with this folder on Python's path:

  from recommend import Recommender
  Recommender().recommend([['sku1', 'sku2']], k=10)

The search is recjax's own: a beam search over the semantic IDs of the catalogue (items.jsonl), with the prompt, the
softmax and the treatment of seen items of prompt.json. Items that share a semantic ID have one score; the most
popular comes first, or is the only one (`shared_sids`). Tokens are read as ids from the two files, so that no tokenizer is needed.
"""

import argparse
import inspect
import json
import math
import pathlib
import sys

import history_rows
import numpy as np
import torch
import transformers

_FOLDER = pathlib.Path(__file__).resolve().parent


class Catalogue:
  """The items and the trie of their semantic IDs.

  The nodes of depth l are the distinct prefixes of l codes in lexicographic order. The children of node s of depth l
  are `first_child[l][s]` … `first_child[l][s + 1] - 1` of depth l + 1. The nodes of the last depth are leaves; leaf
  s holds `leaf_items[first_item[s]:first_item[s + 1]]`, the most popular first.
  """

  def __init__(self, path, level_starts):
    with open(path, encoding='utf-8') as f:
      self.items = [json.loads(line) for line in f]
    self.index = {item['item']: i for i, item in enumerate(self.items)}
    codes_IL = np.array([item['token_ids'] for item in self.items]) - np.array(level_starts)
    popularity_I = np.array([item['popularity'] for item in self.items])
    order = np.lexsort((-popularity_I, *codes_IL.T[::-1]))
    codes_IL, is_new = codes_IL[order], np.zeros(len(order), bool)
    is_new[0] = True
    node, nodes = np.zeros(len(order), np.int64), 1
    self.first_child, self.child_code = [], []
    for level in range(codes_IL.shape[1]):
      is_new[1:] |= codes_IL[1:, level] != codes_IL[:-1, level]
      starts = np.flatnonzero(is_new)
      self.first_child.append(_offsets(np.bincount(node[starts], minlength=nodes)))
      self.child_code.append(codes_IL[starts, level])
      node, nodes = np.cumsum(is_new) - 1, len(starts)
    self.leaf_items, self.first_item = order, _offsets(np.bincount(node))
    self.leaf_of = np.empty(len(order), np.int64)
    self.leaf_of[order] = node

  def children(self, level, nodes_BM):
    """Returns all children `[B, M, X]` of nodes, and a mask of the real ones."""
    first, end = self.first_child[level][nodes_BM], self.first_child[level][nodes_BM + 1]
    widest = np.diff(self.first_child[level]).max()
    candidates = first[..., None] + np.arange(widest)
    exists = candidates < end[..., None]
    return np.minimum(candidates, len(self.child_code[level]) - 1), exists

  def leaves_without_items(self, excluded):
    """Returns the leaves whose items are all excluded."""
    leaves, counts = np.unique(self.leaf_of[sorted(set(excluded))], return_counts=True)
    return leaves[counts == np.diff(self.first_item)[leaves]]

  def items_of(self, leaf):
    return self.leaf_items[self.first_item[leaf] : self.first_item[leaf + 1]]


def _offsets(sizes):
  return np.concatenate([[0], np.cumsum(sizes)])


class Recommender:
  """Ranks the catalogue for histories.

  Args:
    folder: an export of recjax; None: the folder of this file.
    device: such as 'cuda'; None: the GPU if there is one.
    dtype: of the weights and of the computation: 'float32', 'bfloat16', …
  """

  def __init__(self, folder=None, device=None, dtype='float32'):
    folder = pathlib.Path(folder or _FOLDER)
    self.prompt = json.loads((folder / 'prompt.json').read_text(encoding='utf-8'))
    sizes = self.prompt['level_sizes']
    self._level_starts = (self.prompt['first_sid_id'] + _offsets(sizes)[:-1]).tolist()
    self.catalogue = Catalogue(folder / 'items.jsonl', self._level_starts)
    self._device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    self._is_encoder_decoder = self.prompt['is_encoder_decoder']
    kind = 'AutoModelForSeq2SeqLM' if self._is_encoder_decoder else 'AutoModelForCausalLM'
    model = getattr(transformers, kind).from_pretrained(
      str(folder), attn_implementation='eager', dtype=getattr(torch, dtype)
    )
    self._model = model.to(self._device).eval()

  @property
  def columns(self):
    """The columns that prompts show or that tell seen items from context: `times`, `events`, both or none."""
    prompt = self.prompt
    is_told = prompt['exclude_seen'] and prompt['target_events'] is not None
    read = {'times': prompt['gaps'], 'events': prompt['events'] or is_told}
    return [name for name, is_read in read.items() if is_read]

  def recommend(self, histories, k=10, beams=None, batch_size=16, times=None, events=None):
    """Returns for each history a list of `{'item', 'title', 'score'}`, best first.

    Args:
      histories: lists of raw item ids, oldest first.
      k: number of items; at most `beams`.
      beams: width of the search; None: that of the run.
      batch_size: histories at a time.
      times: seconds since 1970, lists aligned with the histories (None: not known); read only if `columns` has them.
      events: kinds of the interactions, likewise. In a run with context events only targets count as seen; where
        kinds are not known, all items of the history do.

    Raises:
      ValueError: an item or an event is unknown, or an argument does not fit.
    """
    beams = beams or self.prompt['beams']
    if not 1 <= k <= beams:
      raise ValueError(
        f'k must be from 1 to the {beams} items that the search finds, beams; got {k}'
      )
    known = self.catalogue.index
    for history in histories:
      for item in history:
        if item not in known:
          raise ValueError(f'every item of a history must be in items.jsonl; {item!r} is not')
    rows = [[known[item] for item in history] for history in histories]
    times, events = (
      [None] * len(rows) if values is None or name not in self.columns else values
      for name, values in (('times', times), ('events', events))
    )
    for n, row in enumerate(rows):
      self._check_columns(f'history {n}', len(row), times[n], events[n])
    prompts = [self.prompt_ids(*columns) for columns in zip(rows, times, events, strict=True)]
    seen = [self._seen(*columns) for columns in zip(rows, events, strict=True)]
    order = sorted(range(len(rows)), key=lambda n: -len(prompts[n]))
    results = [None] * len(rows)
    for start in range(0, len(rows), batch_size):
      chosen = order[start : start + batch_size]
      ranked = self._search([prompts[n] for n in chosen], [seen[n] for n in chosen], beams)
      for n, items in zip(chosen, ranked, strict=True):
        results[n] = [self._entry(*pair) for pair in items[:k]]
    return results

  def _entry(self, item, score):
    item = self.catalogue.items[item]
    return {'item': item['item'], 'title': item.get('title'), 'score': float(score)}

  def _check_columns(self, place, length, times, events):
    for name, values in (('times', times), ('events', events)):
      if values is not None and (not isinstance(values, list | tuple) or len(values) != length):
        raise ValueError(f'{place}: {name} must be a list with one value per item of the history')
    if not all(isinstance(time, int | float) and abs(time) < 2**63 for time in times or ()):
      raise ValueError(f'{place}: times must be numbers of seconds; got {str(times)[:80]}')
    for event in events or ():
      if event not in self.prompt['event_names']:
        raise ValueError(
          f'{place}: every event must be one of {", ".join(self.prompt["event_names"])}; got {event!r}'
        )

  def _seen(self, history, events):
    """Returns the items of a history that are not recommended."""
    targets = self.prompt['target_events']
    if not self.prompt['exclude_seen']:
      return set()
    if targets is None or events is None:
      return set(history)
    return {item for item, event in zip(history, events, strict=True) if event in targets}

  def prompt_ids(self, history, times=None, events=None):
    """Returns the token ids of the prompt for a history of item indices."""
    prompt, items = self.prompt, self.catalogue.items
    first = max(len(history) - prompt['max_history'], 0)
    ids = [id_ for part in prompt['before_history'] for id_ in part['ids']]
    for n in range(first, len(history)):
      item = items[history[n]]
      ids += item['prompt_ids'] if prompt['show'] != 'sid' else item['token_ids']
      if prompt['gaps'] and times is not None and n > first:
        gap = int(times[n]) - int(times[n - 1])
        notes = prompt['gaps']
        ids += next(g['ids'] for g in notes if g['up_to'] is None or gap <= g['up_to'])
      if prompt['events'] and events is not None:
        ids += prompt['events'][events[n]]['ids']
    return ids + [id_ for part in prompt['after_history'] for id_ in part['ids']]

  @torch.no_grad()
  def _search(self, prompts, seen, beams):
    """Returns (item, score) pairs of each prompt without its seen items, best first; see `recjax.decode.beam`."""
    catalogue, B, levels = self.catalogue, len(prompts), len(self._level_starts)
    nodes_BM, scores_BM = np.zeros((B, 1), np.int64), np.zeros((B, 1), np.float32)
    state = _State(self._model, prompts, self.prompt, self._device)
    for level in range(levels):
      log_probs_BMC = self._log_probs(state.logits, level).reshape(*nodes_BM.shape, -1)
      nodes_BMX, exists_BMX = catalogue.children(level, nodes_BM)
      codes_BMX = catalogue.child_code[level][nodes_BMX]
      scores_BMX = scores_BM[..., None] + np.take_along_axis(log_probs_BMC, codes_BMX, axis=-1)
      if level == levels - 1:
        for b, items in enumerate(seen):
          exists_BMX[b] &= ~np.isin(nodes_BMX[b], catalogue.leaves_without_items(items))
      scores_BMX[~exists_BMX] = -np.inf
      branch, width = scores_BMX.shape[-1], min(beams, len(catalogue.child_code[level]))
      flat = scores_BMX.reshape(B, -1)
      best_BM = np.argsort(-flat, axis=1, kind='stable')[:, :width]  # the first of equal scores
      scores_BM = np.take_along_axis(flat, best_BM, axis=1)
      nodes_BM = np.take_along_axis(nodes_BMX.reshape(B, -1), best_BM, axis=1)
      if level < levels - 1:
        tokens_BM = self._level_starts[level] + catalogue.child_code[level][nodes_BM]
        state.append(tokens_BM, best_BM // branch)
    return [self._items(*row, beams) for row in zip(nodes_BM, scores_BM, seen, strict=True)]

  def _log_probs(self, logits, level):
    start, size = self._level_starts[level], self.prompt['level_sizes'][level]
    logits = logits.float()
    if self.prompt['sid_softmax'] == 'full':
      logits = torch.log_softmax(logits, dim=-1)
    logits = logits[:, start : start + size]
    if self.prompt['sid_softmax'] == 'level':
      logits = torch.log_softmax(logits, dim=-1)
    return logits.cpu().numpy()

  def _items(self, leaves, scores, seen, beams):
    most = 1 if self.prompt['shared_sids'] == 'first' else None
    ranked = [
      (item, score)
      for leaf, score in zip(leaves, scores, strict=True)
      if math.isfinite(score)
      for item in [i for i in self.catalogue.items_of(leaf).tolist() if i not in seen][:most]
    ]
    return ranked[:beams]


class _State:
  """The model's keys and values of a batch of beams; `logits` `[rows, V]` predict the next token of each."""

  def __init__(self, model, prompts, prompt, device):
    self._model, self._device, self._is_encoder_decoder = (
      model,
      device,
      prompt['is_encoder_decoder'],
    )
    B, S = len(prompts), max(map(len, prompts))
    ids, self._mask = torch.zeros(B, S, dtype=torch.long), torch.zeros(B, S, dtype=torch.long)
    for b, row in enumerate(prompts):
      # A decoder's prompts end together, an encoder's begin together.
      at = slice(0, len(row)) if self._is_encoder_decoder else slice(S - len(row), S)
      ids[b, at], self._mask[b, at] = torch.tensor(row, dtype=torch.long), 1
    ids, self._mask = ids.to(device), self._mask.to(device)
    self._length, self._beams = self._mask.sum(dim=1), 1
    self._cache = self._encoded = None
    if self._is_encoder_decoder:
      self._encoded = model.get_encoder()(input_ids=ids, attention_mask=self._mask)[0]
      start = torch.full((B, 1), prompt['start_id'], dtype=torch.long, device=device)
      self._run(start, None)
    else:
      self._run(ids, (self._mask.cumsum(dim=1) - 1).clamp(min=0), logits_to_keep=1)

  def _run(self, ids, positions, **more):
    """Reads the next tokens of every row."""
    inputs = {'attention_mask': self._mask, 'use_cache': True, 'return_dict': True, **more}
    name = cache_name(self._model)
    if self._cache is not None:
      inputs[name] = self._cache
    if self._is_encoder_decoder:
      inputs |= {'decoder_input_ids': ids, 'encoder_outputs': (self._encoded,)}
    else:
      inputs |= {'input_ids': ids, 'position_ids': positions}
    out = self._model(**inputs)
    self._cache, self.logits = getattr(out, name), out.logits[:, -1]

  def append(self, tokens_BM, parents_BM):
    """Appends a token to each beam; beam m continues beam `parents_BM[:, m]`."""
    B, M = tokens_BM.shape
    rows = torch.from_numpy((np.arange(B)[:, None] * self._beams + parents_BM).reshape(-1))
    rows, self._beams = rows.to(self._device), M
    self._cache.reorder_cache(rows)
    self._mask, self._length = self._mask[rows], self._length[rows]
    positions = self._length[:, None]
    if self._is_encoder_decoder:
      self._encoded = self._encoded[rows]
    else:
      self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
      self._length = self._length + 1
    tokens = torch.from_numpy(np.ascontiguousarray(tokens_BM)).reshape(-1, 1).to(self._device)
    self._run(tokens, positions)


def cache_name(model):
  """Returns the name of the keys and values, which depends on the version of transformers."""
  names = inspect.signature(type(model).forward).parameters
  return 'cache' if 'cache' in names else 'past_key_values'


def main(kind=Recommender):
  parser = argparse.ArgumentParser(description='Ranks items for the histories of a file.')
  parser.add_argument('--histories', required=True, help='JSON lines with "history": raw item ids')
  parser.add_argument('--out', required=True, help='file to write, JSON lines')
  parser.add_argument('--k', type=int, default=20, help='items per history')
  parser.add_argument('--beams', type=int, help='width of the search; default: that of the run')
  parser.add_argument('--batch_size', type=int, default=16, help='histories at a time')
  parser.add_argument('--skip_unknown', action='store_true', help='leave out unknown items')
  parser.add_argument('--device', help='such as cuda; default: the GPU if there is one')
  parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
  args = parser.parse_args()
  transformers.utils.logging.disable_progress_bar()
  try:
    if not pathlib.Path(args.histories).is_file():
      raise FileNotFoundError(f'--histories must be a file; {args.histories} is not')
    history_rows.check(args.histories, args.out)
    recommender = kind(device=args.device, dtype=args.dtype)
    if others := recommender.prompt.get('left_out'):
      print(f'ranked by the codes alone, without {" and ".join(others)}', file=sys.stderr)
    known, columns = recommender.catalogue.index, recommender.columns
    rows = history_rows.read(args.histories, known, columns, args.skip_unknown)
    ranked = recommender.recommend(
      [row['history'] for row in rows],
      args.k,
      args.beams,
      args.batch_size,
      times=[row.get('times') for row in rows],
      events=[row.get('events') for row in rows],
    )
    history_rows.write(args.out, rows, ranked)
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  main()
