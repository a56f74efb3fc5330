"""The chat template of an instruction model, as the token ids around a prompt and its answer."""

import json
from typing import Any

from etils import epath
import jinja2
import jinja2.sandbox

_PROMPT, _ANSWER = '\ue000', '\ue001'  # private characters: no template writes them
_FILES = ('chat_template.jinja', 'tokenizer_config.json')


def template_files(folder: epath.Path) -> dict[str, epath.Path]:
  """The files that a template may come from, those that are there."""
  return {name: folder / name for name in _FILES if (folder / name).exists()}


def read_template(folder: epath.Path) -> tuple[str, dict[str, str]] | None:
  """The template of a checkpoint's folder and its special tokens by name; None where it has none.

  `chat_template.jinja` goes before the field of tokenizer_config.json; of several named templates the
  one called `default` is taken.

  Raises:
    ValueError: tokenizer_config.json is no JSON object.
  """
  settings: dict[str, Any] = {}
  path = folder / 'tokenizer_config.json'
  if path.exists():
    try:
      settings = json.loads(path.read_text())
    except ValueError as error:
      raise ValueError(f'{path} must be JSON: {error}. Set --config.model.pretrained') from error
    if not isinstance(settings, dict):
      raise ValueError(f'{path} must hold an object. Set --config.model.pretrained')
  template = settings.get('chat_template')
  if isinstance(template, list):
    template = next((entry['template'] for entry in template if entry['name'] == 'default'), None)
  if (folder / 'chat_template.jinja').exists():
    template = (folder / 'chat_template.jinja').read_text()
  if not template:
    return None
  tokens = {}
  for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
    value = settings.get(name)
    tokens[name] = value['content'] if isinstance(value, dict) else value or ''
  return template, tokens


def around(folder: epath.Path) -> dict[str, str] | None:
  """The texts `before` a prompt, `between` it and the answer, and at the `end` of the answer.

  The template is rendered with one user's turn and an empty answer to come; thinking is switched off where
  a template knows it. None where the folder has no template.

  Raises:
    ValueError: the template cannot be rendered, or does not show prompt and answer once.
  """
  found = read_template(folder)
  if found is None:
    return None
  template, tokens = found
  user = {'role': 'user', 'content': _PROMPT}
  asked = _render(folder, template, tokens, [user], add_generation_prompt=True)
  answer = {'role': 'assistant', 'content': _ANSWER}
  answered = _render(folder, template, tokens, [user, answer], add_generation_prompt=False)
  if asked.count(_PROMPT) != 1 or answered.count(_ANSWER) != 1:
    raise ValueError(
      f'the chat template of {folder} must show prompt and answer once. Set '
      '--config.data.prompt_format=plain'
    )
  before, between = asked.split(_PROMPT)
  end = answered.split(_ANSWER)[1].strip()
  return {'before': before, 'between': between, 'end': end or tokens['eos_token']}


def _render(
  folder: epath.Path,
  template: str,
  tokens: dict[str, str],
  messages: list[dict[str, str]],
  add_generation_prompt: bool,
) -> str:
  # As `transformers` renders them: a sandbox, since templates come with checkpoints.
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
  environment.globals['raise_exception'] = _refuse
  environment.filters['tojson'] = lambda value, **_: json.dumps(value, ensure_ascii=False)
  try:
    return environment.from_string(template).render(
      messages=messages,
      add_generation_prompt=add_generation_prompt,
      enable_thinking=False,
      tools=None,
      **tokens,
    )
  except jinja2.TemplateError as error:
    raise ValueError(
      f'the chat template of {folder} cannot be rendered: {error}. Set '
      '--config.data.prompt_format=plain'
    ) from error


def _refuse(message: str) -> None:
  raise jinja2.TemplateRuntimeError(message)
