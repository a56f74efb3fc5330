"""Recommends items with `generate` of transformers, which `prefix_allowed_tokens_fn` constrains to the catalogue.

It gives the items of recommend.py, on which it builds. recommend.py is faster, since it computes the codes of one level
alone and reads a prompt once for all beams: use it to rank. This file shows what an engine with a beam search of its own
needs: the prompts, `allowed`, and the softmax of the training.

`generate` normalises a token over the whole vocabulary. A model that was trained with sid_softmax=full is trained so,
and its scores are those of recjax. A model that was trained with sid_softmax=level (see prompt.json) normalises over the
codes of a level: `LevelSoftmax` does that before the constraint. Without it (--softmax=full) the scores are lower, and
the order differs.

  python FOLDER/generate.py --histories=histories.jsonl --out=ranked.jsonl --k=10
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import recommend

_LOST = -1e8  # `generate` gives beams without a continuation about -1e9


class LevelSoftmax(transformers.LogitsProcessor):
  """Normalises the scores of a level's codes among themselves; other tokens get -inf.

  Args:
    starts: first token id of each level.
    sizes: number of codes of each level.
    first: length of the sequences before their first code.
    is_normalised: whether to normalise; otherwise the other tokens get -inf alone.
  """

  def __init__(self, starts, sizes, first, is_normalised=True):
    self._starts, self._sizes, self._first = starts, sizes, first
    self._is_normalised = is_normalised

  def __call__(self, input_ids, scores):
    level = input_ids.shape[1] - self._first
    codes = slice(self._starts[level], self._starts[level] + self._sizes[level])
    kept = torch.log_softmax(scores[:, codes], -1) if self._is_normalised else scores[:, codes]
    found = torch.full_like(scores, -torch.inf)
    found[:, codes] = kept
    return found


class Recommender(recommend.Recommender):
  """Ranks the catalogue for histories by `generate`; see `recommend.Recommender`.

  Args:
    softmax: 'level' or 'full'; None: that of the training.
    arguments: of `recommend.Recommender`.
  """

  def __init__(self, *arguments, softmax=None, **named):
    super().__init__(*arguments, **named)
    self._softmax = softmax or self.prompt['sid_softmax']
    self._leaves, self._next = {}, {}
    for item, leaf in zip(self.catalogue.items, self.catalogue.leaf_of.tolist(), strict=True):
      tokens = tuple(item['token_ids'])
      self._leaves[tokens] = leaf
      for level, token in enumerate(tokens):
        self._next.setdefault(tokens[:level], set()).add(token)

  def allowed(self, first, hidden):
    """Returns the function `prefix_allowed_tokens_fn` of a batch.

    Args:
      first: length of the sequences before their first code.
      hidden: for each row the leaves that are not recommended.
    """
    levels = len(self._level_starts)

    def tokens(row, ids):
      prefix = tuple(ids[first:].tolist())
      found = list(self._next.get(prefix, ()))
      if len(prefix) == levels - 1:
        found = [token for token in found if self._leaves[*prefix, token] not in hidden[row]]
      return found or [
        self._nothing
      ]  # an empty list is an error in `generate`; LevelSoftmax gives it -inf

    return tokens

  @property
  def _nothing(self):
    """A token that is no code."""
    return 0 if self._level_starts[0] else self._level_starts[-1] + self.prompt['level_sizes'][-1]

  def _search(self, prompts, seen, beams):
    """Returns (item, score) pairs of each prompt without its seen items, best first."""
    B, S, levels = len(prompts), max(map(len, prompts)), len(self._level_starts)
    ids, mask = torch.zeros(B, S, dtype=torch.long), torch.zeros(B, S, dtype=torch.long)
    for b, row in enumerate(prompts):
      # A decoder's prompts end together, an encoder's begin together.
      at = slice(0, len(row)) if self._is_encoder_decoder else slice(S - len(row), S)
      ids[b, at], mask[b, at] = torch.tensor(row, dtype=torch.long), 1
    first = 1 if self._is_encoder_decoder else S  # a decoder of an encoder begins with one token
    hidden = [set(self.catalogue.leaves_without_items(items).tolist()) for items in seen]
    allowed, width = self.allowed(first, hidden), max(beams, 2)
    sizes, processors = self.prompt['level_sizes'], transformers.LogitsProcessorList()
    named = {}
    processors.append(LevelSoftmax(self._level_starts, sizes, first, self._softmax == 'level'))
    if self._softmax == 'level':  # the constraint of prefix_allowed_tokens_fn, after the softmax
      processors.append(transformers.PrefixConstrainedLogitsProcessor(allowed, width))
    else:
      named['prefix_allowed_tokens_fn'] = allowed
    if self._is_encoder_decoder:
      named['decoder_start_token_id'] = self.prompt['start_id']
      # `generate` makes a cache with as many layers as the encoder; these two grow with the decoder.
      caches = [transformers.DynamicCache() for _ in range(2)]
      named[recommend.cache_name(self._model)] = transformers.EncoderDecoderCache(*caches)
    found = self._model.generate(
      ids.to(self._device), attention_mask=mask.to(self._device), logits_processor=processors,
      num_beams=width, num_return_sequences=width, max_new_tokens=levels, length_penalty=0.0,
      do_sample=False, early_stopping=False, eos_token_id=None, pad_token_id=0,
      return_dict_in_generate=True, output_scores=True, **named,
    )  # fmt: skip
    codes = found.sequences[:, first:].reshape(B, width, levels).tolist()
    scores = found.sequences_scores.reshape(B, width).float().cpu().numpy()
    ranked = []
    for b, rows in enumerate(codes):
      leaves = [self._leaves.get(tuple(row)) for row in rows]
      pairs = [
        (leaf, score)
        for leaf, score in zip(leaves, scores[b], strict=True)
        if leaf is not None and leaf not in hidden[b] and score > _LOST
      ]
      leaves, kept = (
        (np.array(column) for column in zip(*pairs, strict=True)) if pairs else ([], [])
      )
      ranked.append(self._items(leaves, kept, seen[b], beams))
    return ranked


if __name__ == '__main__':
  recommend.main(Recommender)
