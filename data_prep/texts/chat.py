"""The chat template of an instruction model, as the texts around a prompt and its answer."""

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

# A template that writes today's date gets this one, so that equal inputs give equal prompts.
DATE = datetime.datetime(2024, 7, 26)

_PROMPT, _ANSWER = '\ue000', '\ue001'  # private characters, which no template writes
_JINJA, _JSON, _CONFIG = 'chat_template.jinja', 'chat_template.json', 'tokenizer_config.json'
_TOKENS = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
_PLAIN = 'Set --config.data.prompt_format=plain'


def template_files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns the files that a template may come from, by name; only those that exist."""
  names = (_JINJA, _JSON, _CONFIG)
  return {name: folder / name for name in names if (folder / name).exists()}


def read_template(folder: epath.Path) -> str | None:
  """Returns the template of a checkpoint folder; None: it has none.

  The first of chat_template.jinja, chat_template.json and tokenizer_config.json that has one counts. Of
  several named templates the one called `default` is taken.

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
  """Returns the names of special tokens that a template can write, by variable."""
  settings = read_json(folder / _CONFIG)
  tokens = {}
  for name in _TOKENS:
    value = settings.get(name)
    value = value.get('content') if isinstance(value, dict) else value
    tokens[name] = value or known.get(name, '')
  return tokens


def around(folder: epath.Path, known: Mapping[str, str]) -> dict[str, str] | None:
  """Returns the text `before` a prompt, `between` prompt and answer, and at the `end` of the answer.

  The template is rendered with one user turn and an answer; thinking is switched off if the template
  supports that. None: the folder has no template.

  Args:
    folder: a checkpoint of `transformers`.
    known: names of special tokens (`bos_token` …) that tokenizer_config.json may leave out.

  Raises:
    ValueError: the template cannot be rendered, or does not show prompt and answer once.
  """
  template = read_template(folder)
  if template is None:
    return None
  tokens = _special_tokens(folder, known)
  user = {'role': 'user', 'content': _PROMPT}
  asked = _render(folder, template, tokens, [user], add_generation_prompt=True)
  answer = {'role': 'assistant', 'content': _ANSWER}
  answered = _render(folder, template, tokens, [user, answer], add_generation_prompt=False)
  if asked.count(_PROMPT) != 1 or answered.count(_ANSWER) != 1:
    raise ValueError(
      f'the chat template of {folder} must show prompt and answer once; it shows the prompt '
      f'{asked.count(_PROMPT)} times and the answer {answered.count(_ANSWER)} times. {_PLAIN}'
    )
  before, between = asked.split(_PROMPT)
  end = answered.split(_ANSWER)[1].strip()
  return {'before': before, 'between': between, 'end': end or tokens['eos_token']}


class _Generation(ext.Extension):
  """The tag `{% generation %}` of `transformers`, which marks the answer: its body is rendered."""

  tags = frozenset({'generation'})

  def parse(self, parser) -> nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body).set_lineno(line)


def _refuse(message: str) -> None:
  raise jinja2.TemplateRuntimeError(message)


def _tojson(
  value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False
) -> str:
  """The filter of `transformers`: unlike Jinja's it does not escape HTML."""
  return json.dumps(
    value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
  )


def _strftime_now(form: str) -> str:
  log.warning(
    'the chat template writes the date of today; prompts have %s instead, so that they do not change by '
    'the day',
    DATE.strftime(form),
  )
  return DATE.strftime(form)


def _environment() -> jinja2.Environment:
  """Returns the environment of `transformers`: a sandbox, since templates come with checkpoints."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
  )
  environment.filters['tojson'] = _tojson
  environment.globals |= {'raise_exception': _refuse, 'strftime_now': _strftime_now}
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
    reason = error  # templates run Python's operators, which raise their own types
  where = '' if line is None else f', line {line}: {template.splitlines()[line - 1].strip()[:80]!r}'
  raise ValueError(
    f'the chat template of {folder} cannot be rendered{where}: {type(reason).__name__}: {reason}. {_PLAIN}'
  ) from reason
