"""Renders the chat template of an instruction model, and returns the texts around prompt and answer."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import json
import logging
import sys
from typing import Any

from etils import epath
import jinja2
from jinja2 import ext, nodes
import jinja2.sandbox

from recjax.models.pretrained.json_file import read_json

log = logging.getLogger(__name__)

# Replaces today's date in templates, so that equal inputs give equal prompts.
DATE = datetime.datetime(2024, 7, 26)

_PROMPT, _ANSWER = '\ue000', '\ue001'  # private-use characters, which occur in no template
_JINJA, _JSON, _CONFIG = 'chat_template.jinja', 'chat_template.json', 'tokenizer_config.json'
_TOKENS = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
_MAX_LINES = 1_000_000  # compiled lines that a template may run
_MAX_CHARACTERS = 100_000  # of a rendered template
# Templates run Python's operators, which raise their own types.
_ERRORS = (
  jinja2.TemplateError,
  TypeError,
  ValueError,
  LookupError,
  ArithmeticError,
  AttributeError,
  RecursionError,
  MemoryError,
)
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
    ValueError: a file cannot be read, or its template is not text.
  """
  file = folder / _JINJA
  if file.exists():
    try:
      return file.read_text()
    except (OSError, ValueError) as error:
      raise ValueError(f'{file} must be a text in UTF-8: {error}. {_PLAIN}') from error
  for name in (_JSON, _CONFIG):
    template = read_json(folder / name).get('chat_template')
    if isinstance(template, list):
      entries = [entry for entry in template if isinstance(entry, dict)]
      template = {entry.get('name'): entry.get('template') for entry in entries}
    if isinstance(template, dict):
      template = template.get('default')
    if template is not None and not isinstance(template, str):
      raise ValueError(
        f'chat_template of {folder / name} must be a text; got {str(template)[:80]!r}. {_PLAIN}'
      )
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
    tokens[name] = value if isinstance(value, str) and value else known.get(name, '')
  return tokens


def warn_of_date(folder: epath.Path) -> None:
  """Logs a warning if the template of a folder inserts today's date."""
  if 'strftime_now' in (read_template(folder) or ''):
    log.warning(
      "the chat template of %s inserts today's date; prompts contain %s instead, so that they "
      'do not change every day',
      *(folder, f'{DATE:%Y-%m-%d}'),
    )


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


def _strftime_now(format: str) -> str:
  return DATE.strftime(format)


def _load(name: str) -> str:
  raise jinja2.TemplateRuntimeError(
    f'a template must stand alone; include, import and extends have no file {name!r}'
  )


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  """Raises an error in a template that runs for more than _MAX_LINES lines."""
  lines = 0

  def count(frame, event, argument):
    nonlocal lines
    if frame.f_code.co_filename != '<template>':
      return None
    lines += 1
    if lines > _MAX_LINES:
      raise jinja2.TemplateRuntimeError('the template runs too long: a loop has no end')
    return count

  before = sys.gettrace()
  sys.settrace(count)
  try:
    yield
  finally:
    sys.settrace(before)


def _environment() -> jinja2.Environment:
  """The Jinja environment of `transformers`: a sandbox, because a checkpoint's template is not trusted."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
    loader=jinja2.FunctionLoader(_load),
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
    compiled = _environment().from_string(template)
    with _limited():
      text = compiled.render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
        tools=None,
        documents=None,
        **tokens,
      )
    if len(text) > _MAX_CHARACTERS:
      raise ValueError(f'the text must have at most {_MAX_CHARACTERS} characters; got {len(text)}')
    return text
  except jinja2.TemplateSyntaxError as error:
    line, reason = error.lineno, error
  except _ERRORS as error:
    reason = error
  where = '' if line is None else f', line {line}: {template.splitlines()[line - 1].strip()[:80]!r}'
  raise ValueError(
    f'the chat template of {folder} cannot be rendered{where}: {type(reason).__name__}: {reason}. {_PLAIN}'
  ) from reason
