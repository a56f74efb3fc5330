"""A language model as the teacher: a question for every SID token, and no question twice."""

from collections.abc import Sequence
import concurrent.futures
import functools
import json
import os
import pathlib
from typing import Any

import tqdm

from data_prep.keywords import prompts
from data_prep.keywords.endpoint import Endpoint, GaveUpError, StoppedError
from data_prep.keywords.groups import Group
from data_prep.keywords.journal import Journal
from recjax.runtime import files as hashing
from recjax.schema.items import Keywords

_THREADS = 4  # an answer takes seconds; the pace is kept over all of them
_CHARACTERS_A_TOKEN = 4  # of English, for the estimate
_DESCRIPTION_TOKENS, _KEYWORD_TOKENS = 130, 5  # of an answer, likewise


def api_key(section: Keywords) -> str:
  """The key of the endpoint, from the environment; empty for a server that wants none.

  Raises:
    ValueError: the variable is not set, or holds what no key can be; the message does not show it.
  """
  name = section.api_key_variable
  key = os.environ.get(name)
  if key is None:
    raise ValueError(
      f'the environment variable {name} must hold the key of {section.url}; it is not set. Set it (to '
      'nothing, for a server without keys), or name another with --config.keywords.api_key_variable'
    )
  key = key.strip()
  if not key.isascii() or not key.isprintable() or ' ' in key:
    raise ValueError(f'the environment variable {name} must hold a key: one word of ASCII letters')
  return key


def entries(
  groups: Sequence[Group],
  items: Sequence[dict[str, Any]],
  section: Keywords,
  journal: pathlib.Path,
  first_pause: float = 2.0,
) -> list[dict[str, Any]]:
  """Asks about every group; prints what it will cost before the first request.

  A question is the model's name and the chat. Its answer is kept in the journal at once and never
  asked for again, neither after a kill nor for another token or another day.

  Args:
    groups: of every used token.
    items: objects of items.jsonl.
    section: where and how to ask.
    journal: path of the file of answers; it stays.
    first_pause: seconds, as in `Endpoint`.

  Returns:
    Token, description and keywords of each group.

  Raises:
    ConnectionError: a question was not answered in all its attempts; the same call continues.
    ValueError: there is no key, the endpoint refuses it or the request, or the journal is damaged.
  """
  kept = Journal(journal)
  chats = [_chat(group, items, section) for group in groups]
  questions = [hashing.digest([section.model, chat]) for chat in chats]
  todo = {
    question: (group.token, chat)
    for question, group, chat in zip(questions, groups, chats, strict=True)
    if question not in kept.answers
  }
  if todo:
    endpoint = Endpoint(section, api_key(section), first_pause)
    print(_estimate([chat for _, chat in todo.values()], len(groups), section), flush=True)
    _ask_all(todo, endpoint, section, kept)
    print(_bill([kept.answers[question] for question in todo], section), flush=True)
  return [
    {
      'token': group.token,
      'description': kept.answers[question]['description'],
      'keywords': kept.answers[question]['keywords'],
    }
    for group, question in zip(groups, questions, strict=True)
  ]


def _chat(group: Group, items: Sequence[dict[str, Any]], section: Keywords) -> list[dict[str, str]]:
  of_group = [items[i] for i in group.items]
  places = prompts.shown([item['id'] for item in of_group], section.items)
  return prompts.messages([of_group[place] for place in places], section.keywords)


def _ask_all(
  todo: dict[str, tuple[str, list[dict[str, str]]]],
  endpoint: Endpoint,
  section: Keywords,
  kept: Journal,
) -> None:
  """Asks on several threads; each keeps its answer itself, so none is lost when another fails."""
  parse = functools.partial(prompts.parse, keywords=section.keywords)

  def ask(question: str) -> None:
    try:
      answer, usage = endpoint.ask(todo[question][1], parse)
      kept.add(question, {'model': section.model, **answer, 'usage': usage})
    except BaseException:
      endpoint.stop.set()  # here, before this thread is given the next question
      raise

  pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
  futures = {pool.submit(ask, question): question for question in todo}
  first, failed = None, ''
  try:
    done = concurrent.futures.as_completed(futures)
    for future in tqdm.tqdm(done, 'keywords', total=len(todo), unit=' requests'):
      error = future.exception()
      if error is not None and not isinstance(error, StoppedError):
        first, failed = error, todo[futures[future]][0]
        break
  finally:  # also after Ctrl-C: what is under way is waited for, paid and kept
    endpoint.stop.set()
    pool.shutdown(cancel_futures=True)
  if isinstance(first, GaveUpError):
    raise ConnectionError(
      f'{section.url} gave no answer about {failed}: {first}. {sum(q in kept.answers for q in todo)} of '
      f'{len(todo)} requests are answered and kept in {kept.path}: start the same command again to '
      'continue'
    )
  if first is not None:
    raise first


def _estimate(chats: Sequence[list[dict[str, str]]], num_groups: int, section: Keywords) -> str:
  """What the open questions will cost, in words."""
  characters = sum(len(json.dumps(chat, ensure_ascii=False)) for chat in chats)
  tokens_in = characters // _CHARACTERS_A_TOKEN
  tokens_out = len(chats) * (_DESCRIPTION_TOKENS + _KEYWORD_TOKENS * section.keywords)
  minutes = len(chats) / section.requests_per_minute
  return (
    f'keywords: {len(chats):,} requests to {section.model} at {section.url} for {num_groups:,} tokens, '
    f'about {tokens_in:,} input and {tokens_out:,} output tokens: {_cost(tokens_in, tokens_out, section)}; '
    f'{minutes:,.1f} minutes or more'
  )


def _bill(answers: Sequence[dict[str, Any]], section: Keywords) -> str:
  """What the endpoint counted, in words."""
  used = [
    sum(_tokens(answer['usage'].get(name)) for answer in answers)
    for name in ('prompt_tokens', 'completion_tokens')
  ]
  if not any(used):
    return 'keywords: the endpoint did not say how many tokens were used'
  return f'keywords: {used[0]:,} input and {used[1]:,} output tokens used: {_cost(*used, section)}'


def _tokens(value: Any) -> int:
  return value if isinstance(value, int) else 0


def _cost(tokens_in: int, tokens_out: int, section: Keywords) -> str:
  if not section.price_input and not section.price_output:
    return 'cost unknown (keywords.price_input and price_output are not set)'
  cost = (tokens_in * section.price_input + tokens_out * section.price_output) / 1e6
  return (
    f'{cost:,.2f} at {section.price_input:g} and {section.price_output:g} a million tokens of '
    'input and output'
  )
