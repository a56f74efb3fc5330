"""Builds the prompt that asks a language model about a SID token, and parses its answer."""

from collections.abc import Sequence
import hashlib
import json
from typing import Any

from data_prep.log.item_text import plain

_SYSTEM = (
  'You are a cataloguer. You are shown some items of a group and name what they have in common. '
  'You answer with one JSON object and nothing else.'
)
_QUESTION = """Items of the group, one a line, with the category where it is known:
{items}

Say what these items share: product types, uses, materials, properties. Be specific where they allow it, and \
general where they differ. Answer with a JSON object of two fields:
"keywords": a list of {keywords} short keywords or phrases in lower case, the most typical first;
"description": one paragraph of 50 to 90 words about the group, without the names of single items."""
_TITLE_CHARACTERS, _PATH_CHARACTERS = 200, 100  # limits in the prompt, per item
_MAX_KEYWORD, _MAX_DESCRIPTION = 100, 4_000  # characters; longer answers are rejected


def sample(item_ids: Sequence[str], count: int) -> list[int]:
  """Returns the positions in `item_ids` of the items that the prompt lists.

  These are the items with the smallest hashes of their ids: an unbiased sample that changes only if a new item
  enters it. An unchanged sample gives the same question, so its stored answer is reused.
  """
  hashes = [hashlib.sha256(item_id.encode()).digest() for item_id in item_ids]
  return sorted(range(len(item_ids)), key=hashes.__getitem__)[:count]


def messages(items: Sequence[dict[str, Any]], keywords: int) -> list[dict[str, str]]:
  """Returns the chat that asks about some items (objects of items.jsonl)."""
  question = _QUESTION.format(items='\n'.join(map(_line, items)), keywords=keywords)
  return [{'role': 'system', 'content': _SYSTEM}, {'role': 'user', 'content': question}]


def _line(item: dict[str, Any]) -> str:
  title = (item.get('title') or item['text'])[:_TITLE_CHARACTERS] or '(no title)'
  paths = ' | '.join(' > '.join(path) for path in item.get('categories', []))
  return f'- {title} ({paths[:_PATH_CHARACTERS]})' if paths else f'- {title}'


def parse(content: str, keywords: int) -> dict[str, Any]:
  """Parses the keywords and the description of an answer; tidies white space and drops repeated keywords.

  Text around the JSON object, such as a code fence, is ignored.

  Args:
    content: the model's answer.
    keywords: maximum number of keywords; further ones are dropped.

  Raises:
    ValueError: the answer holds no JSON object, or a field is missing, empty, too long or of another type.
  """
  start, end = content.find('{'), content.rfind('}')
  try:
    fields = json.loads(content[start : end + 1])
  except ValueError:
    raise ValueError(f'the answer is not JSON: {content[:80]!r}') from None
  words, description = fields.get('keywords'), fields.get('description')
  if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
    raise ValueError(f'keywords must be a list of texts; got {json.dumps(words)[:80]}')
  if not isinstance(description, str) or not 0 < len(plain(description)) <= _MAX_DESCRIPTION:
    raise ValueError(f'description must be a paragraph; got {json.dumps(description)[:80]}')
  words = list(dict.fromkeys(filter(None, map(plain, words))))[:keywords]
  if not words or max(map(len, words)) > _MAX_KEYWORD:
    raise ValueError(f'keywords must be short texts, at least one; got {json.dumps(words)[:80]}')
  return {'keywords': words, 'description': plain(description)}
