"""The teacher `http`: asks a language model about every SID token, and asks no question twice."""

from collections.abc import Sequence
import concurrent.futures
import contextlib
import functools
import json
import os
import pathlib
from typing import Any

from data_prep.keywords import prompts
from data_prep.keywords.endpoint import Endpoint, GaveUpError, StoppedError
from data_prep.keywords.groups import Group
from data_prep.keywords.journal import Journal
from recjax.runtime import interrupt, logs, preemption
from recjax.runtime.files import digest
from recjax.schema.items import Keywords

_THREADS = 4  # an answer takes seconds; all threads share the rate limit
# For the estimate of costs: characters per token of English text, and the tokens of an answer.
_CHARACTERS_PER_TOKEN = 4
_DESCRIPTION_TOKENS, _KEYWORD_TOKENS = 130, 5


def api_key(section: Keywords) -> str:
  """Returns the key of the endpoint from the environment; empty for a server without keys.

  Raises:
    ValueError: the variable is not set, or its value is no valid key. The message does not contain the value.
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
  """Asks about every group. Prints the estimated cost before the first request.

  A question consists of the model's name and the chat. Its answer is stored in the journal immediately, so it is
  not asked again: not after a kill, not for another token, and not in a later refresh.

  Args:
    groups: the groups of all used tokens.
    items: objects of items.jsonl.
    section: the endpoint and its limits.
    journal: the file of answers. It is never removed.
    first_pause: seconds; see `Endpoint`.

  Returns:
    Token, description and keywords of each group.

  Raises:
    ConnectionError: all attempts to ask a question failed; a repeated call asks only the remaining questions.
    ValueError: there is no key, the endpoint rejects the key or the request, or the journal is damaged.
  """
  stored = Journal(journal)
  chats = [_chat(group, items, section) for group in groups]
  questions = [digest([section.model, chat]) for chat in chats]
  todo = {
    question: (group.token, chat)
    for question, group, chat in zip(questions, groups, chats, strict=True)
    if question not in stored.answers
  }
  if todo:
    endpoint = Endpoint(section, api_key(section), first_pause)
    print(_estimate([chat for _, chat in todo.values()], len(groups), section), flush=True)
    _ask_all(todo, endpoint, section, stored)
    print(_bill([stored.answers[question] for question in todo], section), flush=True)
  return [
    {
      'token': group.token,
      'description': stored.answers[question]['description'],
      'keywords': stored.answers[question]['keywords'],
    }
    for group, question in zip(groups, questions, strict=True)
  ]


def _chat(group: Group, items: Sequence[dict[str, Any]], section: Keywords) -> list[dict[str, str]]:
  group_items = [items[i] for i in group.items]
  sample = prompts.sample([item['id'] for item in group_items], section.items)
  return prompts.messages([group_items[i] for i in sample], section.keywords)


def _ask_all(
  todo: dict[str, tuple[str, list[dict[str, str]]]],
  endpoint: Endpoint,
  section: Keywords,
  stored: Journal,
) -> None:
  """Asks on several threads. Each thread stores its own answers, so none is lost if another thread fails."""
  parse = functools.partial(prompts.parse, keywords=section.keywords)

  def ask(question: str) -> None:
    try:
      answer, usage = endpoint.ask(todo[question][1], parse)
      stored.add(question, {'model': section.model, **answer, 'usage': usage})
    except BaseException:
      endpoint.stop.set()  # before this thread takes the next question
      raise

  pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
  futures = {pool.submit(ask, question): question for question in todo}
  first, failed = None, ''
  finishing = contextlib.ExitStack()
  finishing.enter_context(interrupt.finishing('storing the answers to pending requests'))
  try:
    done = concurrent.futures.as_completed(futures)
    for future in logs.progress(done, 'keywords', total=len(todo), unit=' requests'):
      error = future.exception()
      if error is not None and not isinstance(error, StoppedError):
        first, failed = error, todo[futures[future]][0]
        break
      if interrupt.is_requested():
        break
  finally:  # the pending requests are paid for, so their answers are stored
    endpoint.stop.set()
    pool.shutdown(cancel_futures=True)
    finishing.close()
  if interrupt.is_requested():
    raise preemption.Interrupted
  if isinstance(first, GaveUpError):
    raise ConnectionError(
      f'{section.url} gave no answer about {failed}: {first}. {sum(q in stored.answers for q in todo)} of '
      f'{len(todo)} requests are answered and stored in {stored.path}. Run the same command again to continue'
    )
  if first is not None:
    raise first


def _estimate(chats: Sequence[list[dict[str, str]]], num_groups: int, section: Keywords) -> str:
  """One line: the estimated cost of the open questions."""
  characters = sum(len(json.dumps(chat, ensure_ascii=False)) for chat in chats)
  tokens_in = characters // _CHARACTERS_PER_TOKEN
  tokens_out = len(chats) * (_DESCRIPTION_TOKENS + _KEYWORD_TOKENS * section.keywords)
  minutes = len(chats) / section.requests_per_minute
  return (
    f'keywords: {len(chats):,} requests to {section.model} at {section.url} for {num_groups:,} tokens, '
    f'about {tokens_in:,} input and {tokens_out:,} output tokens: {_cost(tokens_in, tokens_out, section)}; '
    f'{minutes:,.1f} minutes or more'
  )


def _bill(answers: Sequence[dict[str, Any]], section: Keywords) -> str:
  """One line: the tokens that the endpoint counted, and their cost."""
  used = [
    sum(_tokens(answer['usage'].get(name)) for answer in answers)
    for name in ('prompt_tokens', 'completion_tokens')
  ]
  if not any(used):
    return 'keywords: the endpoint did not report the number of tokens'
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
