"""The chat template of an instruction model, as the texts around a prompt and its answer."""

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

# A template that writes today's date gets this one, so that equal inputs give equal prompts.
DATE = datetime.datetime(2024, 7, 26)

_PROMPT, _ANSWER = '\ue000', '\ue001'  # private characters, which no template writes
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
  """Returns the files that a template may come from, by name; only those that exist."""
  names = (_JINJA, _JSON, _CONFIG)
  return {name: folder / name for name in names if (folder / name).exists()}


def read_template(folder: epath.Path) -> str | None:
  """Returns the template of a checkpoint folder; None: it has none.

  The first of chat_template.jinja, chat_template.json and tokenizer_config.json that has one counts. Of
  several named templates the one called `default` is taken.

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
  """Returns the names of special tokens that a template can write, by variable."""
  settings = read_json(folder / _CONFIG)
  tokens = {}
  for name in _TOKENS:
    value = settings.get(name)
    value = value.get('content') if isinstance(value, dict) else value
    tokens[name] = value if isinstance(value, str) and value else known.get(name, '')
  return tokens


def warn_of_date(folder: epath.Path) -> None:
  """Logs a warning if the template of a folder writes the date of today."""
  if 'strftime_now' in (read_template(folder) or ''):
    log.warning(
      'the chat template of %s writes the date of today; prompts have %s instead, so that they do not '
      'change by the day',
      *(folder, f'{DATE:%Y-%m-%d}'),
    )


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
  """Returns the environment of `transformers`: a sandbox, since templates come with checkpoints."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
    loader=jinja2.FunctionLoader(_load),
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
