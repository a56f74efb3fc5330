"""Compiles the searches of a service before its first request."""

import logging
import time
from typing import Any

import numpy as np

from recjax.decode.ranker import Ranker

log = logging.getLogger(__name__)

_SHORTEST = 32  # tokens of the first bucket


def buckets_of(shortest: int, longest: int) -> tuple[int, ...]:
  """Returns lengths that prompts are padded to: 32 tokens, twice as many and so on, and the longest prompt."""
  found, size = [], _SHORTEST
  while size < longest:
    found += [size] if size >= shortest else []
    size *= 2
  return (*found, longest)


def warm(ranker: Ranker, params: Any, rows: int, buckets: tuple[int, ...] | None = None) -> int:
  """Compiles a ranker's searches for waves of 1, 2, 4, … up to `rows` histories and for every length of a prompt.

  From then on `rank(..., few_shapes=True)` pads prompts to the shortest length that holds all of a wave, and no wave of
  at most `rows` histories is compiled, unless one excludes more than 256 items. Rankers of other numbers of beams
  (`with_beams`) have programs of their own.

  Args:
    ranker: the ranker. Its kept prompts, if it has them, are warmed too.
    params: the parameters that it will be called with.
    rows: largest number of histories of a wave; at most `eval.batch_size`.
    buckets: lengths of prompts in tokens, ascending; the last one is that of the longest prompt. None: `buckets_of`.

  Returns:
    The number of programs.

  Raises:
    ValueError: `rows` is not positive, or the lengths do not end with the longest prompt, or hold no prompt.
  """
  shortest, longest = len(ranker.prompt(np.empty(0, np.int32), {})), ranker.longest
  buckets = buckets_of(shortest, longest) if buckets is None else buckets
  if rows < 1:
    raise ValueError(f'rows must be at least 1; got {rows}')
  if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] != longest:
    raise ValueError(
      f'buckets must ascend and end with the longest prompt, {longest} tokens; got {tuple(buckets)}'
    )
  if buckets[0] < shortest:
    raise ValueError(
      f'buckets must hold at least the prompt of an empty history, {shortest} tokens; got {tuple(buckets)}'
    )
  start, count, size = time.perf_counter(), 0, 1
  while True:
    for tokens in buckets:
      ranker.compile(params, size, tokens)
      count += 1
    if size >= rows or ranker.rows_of(2 * size) == ranker.rows_of(size):
      break
    size *= 2
  ranker.buckets = tuple(buckets)
  log.info(
    'compiled %d searches in %.1f s: waves up to %d histories, prompts of %s tokens',
    *(count, time.perf_counter() - start, size, ', '.join(map(str, buckets))),
  )
  return count
