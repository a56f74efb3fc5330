"""Chat templates: the ids around a prompt and its answer, counted by hand."""

import json
import shutil
import sys

from etils import epath
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from data_prep.texts import chat
from data_prep.texts import tokenizer as tokenizer_lib
from recjax.data.prompts import Format
from recjax.data.vocabulary import Vocabulary
from recjax.schema import data as data_config
from tests.folders import ROOT

# Like Gemma: BOS, then roles user and model.
TURNS = (
  "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
  '{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}'
)
# Like Qwen: a default system turn, no BOS, thinking that can be switched off.
SYSTEM = (
  '<turn>system\nhelp<end>\n{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end>\n'
  '{% endfor %}{% if add_generation_prompt %}<turn>assistant\n'
  '{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}'
  '{% endif %}'
)
WORDS = ['<pad>', '<bos>', '<eos>', '<turn>', '<end>', '<think>', '</think>', '\n', 'user', 'model']
WORDS += ['system', 'assistant', 'help', 'buy', '<unk>']


def checkpoint(folder, template=None, as_file=False):
  """Makes a tiny Gemma whose tokenizer's ids are the positions in WORDS."""
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='<unk>')
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r'\n| '), 'isolated')
  tokenizer.add_special_tokens([word for word in WORDS if word.startswith('<')])
  folder.mkdir()
  tokenizer.save(str(folder / 'tokenizer.json'))
  settings = {'bos_token': '<bos>', 'eos_token': {'content': '<eos>'}}
  if template is not None and as_file:
    (folder / 'chat_template.jinja').write_text(template)
  elif template is not None:
    settings['chat_template'] = template
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  golden = ROOT / 'tests/goldens/gemma2'
  fields = json.loads((golden / 'config.json').read_text())
  fields |= {'bos_token_id': 1, 'eos_token_id': [2, 4]}
  shutil.copy(golden / 'model.safetensors', folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(fields))
  return epath.Path(folder)


def ids(text):
  """Returns the positions in WORDS; words are separated by spaces, a newline is written as \\n."""
  return tuple(WORDS.index('\n' if word == r'\n' else word) for word in text.split())


def test_surrounding_texts_of_a_template_with_turns(tmp_path):
  around = chat.surrounding_texts(checkpoint(tmp_path / 'gemma', TURNS), {})
  assert around == {
    'before': '<bos><turn>user\n',
    'between': '<end>\n<turn>model\n',
    'end': '<end>',
  }


@pytest.mark.parametrize('as_file', [False, True])
def test_surrounding_texts_of_a_template_with_system_turn_and_thinking(tmp_path, as_file):
  around = chat.surrounding_texts(checkpoint(tmp_path / 'qwen', SYSTEM, as_file), {})
  assert around == {
    'before': '<turn>system\nhelp<end>\n<turn>user\n',
    'between': '<end>\n<turn>assistant\n<think>\n\n</think>\n\n',
    'end': '<end>',
  }


def write(folder, source, prompt_format='auto'):
  data = data_config.Data(source='x', name='x', prompt_format=prompt_format)
  folder.mkdir()
  summary = tokenizer_lib.write_tokenizer(folder, data, str(source), epath.Path(folder))
  return summary, Vocabulary(folder, (4, 4))


def test_chat_ids_in_the_format_of_every_family(tmp_path):
  gemma = checkpoint(tmp_path / 'gemma', TURNS)
  summary, vocabulary = write(tmp_path / 'a', gemma)
  assert summary['prompts'] == 'chat'
  form = Format.of(vocabulary, is_encoder_decoder=False)
  assert form.before == ids(r'<bos> <turn> user \n')
  assert form.between == ids(r'<end> \n <turn> model \n')
  assert form.end == ids('<end>')
  # An encoder–decoder reads the prompt and EOS even if the folder has a template.
  assert Format.of(vocabulary, is_encoder_decoder=True) == Format((), (2,), (2,), True)

  _, vocabulary = write(tmp_path / 'b', checkpoint(tmp_path / 'qwen', SYSTEM))
  form = Format.of(vocabulary, is_encoder_decoder=False)
  assert form.before == ids(r'<turn> system \n help <end> \n <turn> user \n')
  assert form.between == ids(r'<end> \n <turn> assistant \n <think> \n \n </think> \n \n')

  summary, vocabulary = write(tmp_path / 'c', gemma, 'plain')
  assert summary['prompts'] == 'plain'
  assert Format.of(vocabulary, is_encoder_decoder=False) == Format((1,), (), (2,), False)


def test_without_a_template_prompts_are_plain_and_chat_is_an_error(tmp_path):
  base = checkpoint(tmp_path / 'base')
  summary, vocabulary = write(tmp_path / 'a', base)
  assert summary['prompts'] == 'plain' and vocabulary.chat is None
  with pytest.raises(ValueError, match=r"'chat' must find a chat template in .*base; it has none"):
    write(tmp_path / 'b', base, 'chat')


def test_invalid_templates_are_rejected_with_the_folder(tmp_path):
  for name, template in (
    ('syntax', '{% for %}'),
    ('raises', "{{ raise_exception('roles must alternate') }}"),
    ('twice', '{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}'),
    ('escape', '{{ messages.__class__.__mro__[1].__subclasses__() }}'),
  ):
    with pytest.raises(ValueError, match=r'chat template of .*prompt_format=plain'):
      chat.surrounding_texts(checkpoint(tmp_path / name, template), {})


def test_the_template_extensions_of_transformers_are_supported(tmp_path):
  body = '{{ m.role }}: {{ m.content }}<end>'
  turns = '{% for m in messages %}' + body + '{% endfor %}'
  expected = {'before': 'user: ', 'between': '<end>', 'end': '<end>'}
  for name, template in (
    ('generation', turns.replace(body, '{% generation %}' + body + '{% endgeneration %}')),
    ('break', turns.replace(body, body + '{% if loop.index == 2 %}{% break %}{% endif %}')),
    ('continue', turns.replace(body, '{% if not m.content %}{% continue %}{% endif %}' + body)),
    ('tojson', turns.replace('m.role }}', "m.role | tojson(indent=None) | replace('\"', '') }}")),
  ):
    assert chat.surrounding_texts(checkpoint(tmp_path / name, template), {}) == expected, name
  dated = "{{ strftime_now('%d %b %Y') }} " + turns
  around = chat.surrounding_texts(checkpoint(tmp_path / 'date', dated), {})
  assert around == expected | {'before': '26 Jul 2024 user: '}  # the same on every day
  named = dated.replace('strftime_now(', 'strftime_now(format=')
  assert chat.surrounding_texts(checkpoint(tmp_path / 'named', named), {}) == around


def test_special_tokens_missing_in_the_settings_are_filled_in(tmp_path):
  folder = checkpoint(tmp_path / 'gemma', TURNS)
  (folder / 'chat_template.json').write_text(json.dumps({'chat_template': TURNS}))
  (folder / 'tokenizer_config.json').write_text('{}')
  around = chat.surrounding_texts(folder, {'bos_token': '<bos>'})
  assert around['before'] == '<bos><turn>user\n'
  _, vocabulary = write(tmp_path / 'a', folder)
  assert vocabulary.chat.before == ids(r'<bos> <turn> user \n')


def test_the_error_quotes_the_failing_line_of_the_template(tmp_path):
  for name, template, message in (
    ('tag', 'a\n{% frobnicate %}', r"line 2: '{% frobnicate %}': .*unknown tag 'frobnicate'"),
    ('type', '{{ messages[0].content + 1 }}', r'rendered: TypeError'),
    ('filter', '{{ messages | frobnicate }}', r"No filter named 'frobnicate'"),
    ('function', '{{ frobnicate() }}', r"'frobnicate' is undefined"),
    ('include', "{% include 'x' %}", r"a template must stand alone; .* no file 'x'"),
    ('import', "{% import 'os' as x %}", r"a template must stand alone; .* no file 'os'"),
    ('recursion', '{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}', 'RecursionError'),
    ('long', "{{ 'x' * 200000 }}", 'at most 100000 characters; got 200000'),
    ('sandbox', "{{ ''.__class__.__mro__ }}", 'SecurityError'),
  ):
    with pytest.raises(ValueError, match=message + r'(.|\n)*prompt_format=plain'):
      chat.surrounding_texts(checkpoint(tmp_path / name, template), {})


def test_a_template_that_does_not_end_is_stopped(tmp_path, monkeypatch):
  monkeypatch.setattr(chat, '_MAX_LINES', 1000)
  loop = '{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}'
  tracer = sys.gettrace()
  with pytest.raises(ValueError, match='the template runs too long'):
    chat.surrounding_texts(checkpoint(tmp_path / 'a', loop), {})
  assert sys.gettrace() is tracer
  with pytest.raises(ValueError, match='the template runs too long'):
    tokenizer_lib.check_pretrained(tmp_path / 'a', 'auto')  # before anything is prepared
  tokenizer_lib.check_pretrained(tmp_path / 'a', 'plain')


@pytest.mark.parametrize('value', [5, [{'name': 'default', 'template': 5}], {'default': ['x']}])
def test_a_template_is_text(tmp_path, value):
  folder = checkpoint(tmp_path / 'a', value)
  with pytest.raises(ValueError, match=r'chat_template of .*tokenizer_config.json must be a text'):
    chat.surrounding_texts(folder, {})
  (folder / 'chat_template.jinja').write_bytes(b'\xff')
  with pytest.raises(ValueError, match=r'chat_template\.jinja must be a text in UTF-8'):
    chat.surrounding_texts(folder, {})


def test_the_date_is_warned_of(tmp_path, caplog):
  chat.warn_of_date(checkpoint(tmp_path / 'a', TURNS))
  assert not caplog.text
  chat.warn_of_date(checkpoint(tmp_path / 'b', "{{ strftime_now('%Y') }}"))
  assert 'prompts contain 2024-07-26 instead' in caplog.text


def test_the_template_is_an_input_of_the_stage(tmp_path):
  folder = checkpoint(tmp_path / 'gemma', TURNS)
  assert set(tokenizer_lib.pretrained_files(folder)) == {
    'tokenizer.json',
    'config.json',
    'tokenizer_config.json',
  }
