"""Renders the chat template of an instruction model, and returns the texts around prompt and answer."""

from collections.abc import Mapping
import datetime
import json
import logging
from typing import Any

from etils import epath
import jinja2
from jinja2 import ext, nodes
import jinja2.sandbox

from recjax.models.pretrained.tokenizer_files import read_json

log = logging.getLogger(__name__)

# Replaces today's date in templates, so that equal inputs give equal prompts.
DATE = datetime.datetime(2024, 7, 26)

_PROMPT, _ANSWER = '\ue000', '\ue001'  # private-use characters, which occur in no template
_JINJA, _JSON, _CONFIG = 'chat_template.jinja', 'chat_template.json', 'tokenizer_config.json'
_TOKENS = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
_PLAIN = 'Set --config.data.prompt_format=plain'


def template_files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns the existing files that may hold a template, by name."""
  names = (_JINJA, _JSON, _CONFIG)
  return {name: folder / name for name in names if (folder / name).exists()}


def read_template(folder: epath.Path) -> str | None:
  """Returns the chat template of a checkpoint folder; None if it has none.

  The files are read in this order until one holds a template: chat_template.jinja, chat_template.json,
  tokenizer_config.json. Of several named templates, `default` is used.

  Raises:
    ValueError: a file is not a JSON object.
  """
  if (folder / _JINJA).exists():
    return (folder / _JINJA).read_text()
  for name in (_JSON, _CONFIG):
    template = read_json(folder / name).get('chat_template')
    if isinstance(template, list):
      template = {entry['name']: entry['template'] for entry in template}
    if isinstance(template, dict):
      template = template.get('default')
    if template:
      return template
  return None


def _special_tokens(folder: epath.Path, known: Mapping[str, str]) -> dict[str, str]:
  """Returns the special tokens that a template may insert, by the names of its variables."""
  settings = read_json(folder / _CONFIG)
  tokens = {}
  for name in _TOKENS:
    value = settings.get(name)
    value = value.get('content') if isinstance(value, dict) else value
    tokens[name] = value or known.get(name, '')
  return tokens


def surrounding_texts(folder: epath.Path, known: Mapping[str, str]) -> dict[str, str] | None:
  """Returns the texts `before` the prompt, `between` prompt and answer, and at the `end`, after the answer.

  The template is rendered with one user turn and one answer. Thinking is switched off if the template
  supports that. Returns None if the folder has no template.

  Args:
    folder: a checkpoint of `transformers`.
    known: special tokens by name (`bos_token` …), used if tokenizer_config.json lacks them.

  Raises:
    ValueError: the template cannot be rendered, or does not contain prompt and answer exactly once.
  """
  template = read_template(folder)
  if template is None:
    return None
  tokens = _special_tokens(folder, known)
  user = {'role': 'user', 'content': _PROMPT}
  question = _render(folder, template, tokens, [user], add_generation_prompt=True)
  answer = {'role': 'assistant', 'content': _ANSWER}
  conversation = _render(folder, template, tokens, [user, answer], add_generation_prompt=False)
  if question.count(_PROMPT) != 1 or conversation.count(_ANSWER) != 1:
    raise ValueError(
      f'the chat template of {folder} must show prompt and answer once; it shows the prompt '
      f'{question.count(_PROMPT)} times and the answer {conversation.count(_ANSWER)} times. {_PLAIN}'
    )
  before, between = question.split(_PROMPT)
  end = conversation.split(_ANSWER)[1].strip()
  return {'before': before, 'between': between, 'end': end or tokens['eos_token']}


class _Generation(ext.Extension):
  """The tag `{% generation %}` of `transformers`, which marks the answer. Only its body is rendered."""

  tags = frozenset({'generation'})

  def parse(self, parser) -> nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateRuntimeError(message)


def _tojson(
  value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False
) -> str:
  """The `tojson` filter of `transformers`, which does not escape HTML, unlike Jinja's."""
  return json.dumps(
    value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
  )


def _strftime_now(form: str) -> str:
  log.warning(
    "the chat template inserts today's date; prompts contain %s instead, so that they do not change every day",
    DATE.strftime(form),
  )
  return DATE.strftime(form)


def _environment() -> jinja2.Environment:
  """The Jinja environment of `transformers`: a sandbox, because a checkpoint's template is not trusted."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
  )
  environment.filters['tojson'] = _tojson
  environment.globals |= {'raise_exception': _raise_exception, 'strftime_now': _strftime_now}
  return environment


def _render(
  folder: epath.Path,
  template: str,
  tokens: dict[str, str],
  messages: list[dict[str, str]],
  add_generation_prompt: bool,
) -> str:
  line = None
  try:
    return (
      _environment()
      .from_string(template)
      .render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
        tools=None,
        documents=None,
        **tokens,
      )
    )
  except jinja2.TemplateSyntaxError as error:
    line, reason = error.lineno, error
  except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
    reason = error  # the operators of a template are those of Python and raise its errors
  where = '' if line is None else f', line {line}: {template.splitlines()[line - 1].strip()[:80]!r}'
  raise ValueError(
    f'the chat template of {folder} cannot be rendered{where}: {type(reason).__name__}: {reason}. {_PLAIN}'
  ) from reason
