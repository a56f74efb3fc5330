"""Special tokens of the folder layouts of every published size, from small files with the same fields."""

import json

from etils import epath
import pytest
import tokenizers

from recjax.models.families import FAMILIES
from recjax.models.pretrained import special_ids
from recjax.models.pretrained.config_file import family_of

GEMMA = ('<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>')
QWEN = ('soap', 'brush', '<|endoftext|>', '<|im_start|>', '<|im_end|>')
LLAMA = ('soap', 'brush', '<|begin_of_text|>', '<|end_of_text|>', '<|eom_id|>', '<|eot_id|>')
T5 = ('<pad>', '</s>', '<unk>')
ROWS = 12


def tokenizer_json(names):
  vocab = {name: i for i, name in enumerate([*names, *(f'w{i}' for i in range(4))])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=names[0]))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens([name for name in names if name.startswith('<')])
  return json.loads(tokenizer.to_str())


def folder_of(root, tokens, **files):
  """Writes a folder; `config` → config.json, and so on."""
  root.mkdir(parents=True, exist_ok=True)
  if tokens:
    (root / 'tokenizer.json').write_text(json.dumps(tokenizer_json(tokens)))
  names = {
    'config': 'config.json',
    'generation': 'generation_config.json',
    'tokenizer': 'tokenizer_config.json',
    'special': 'special_tokens_map.json',
  }
  for name, content in files.items():
    (root / names[name]).write_text(json.dumps(content))
  return epath.Path(root)


def read(folder):
  return special_ids.read(folder, family_of(folder), ROWS)


GEMMA_TOKENS = {'bos_token': '<bos>', 'eos_token': '<eos>', 'pad_token': '<pad>'}
GEMMA_IDS = {'bos_token_id': 2, 'eos_token_id': 1, 'pad_token_id': 0}
QWEN_END = {'bos_token': None, 'eos_token': '<|endoftext|>', 'pad_token': '<|endoftext|>'}
QWEN_CHAT = QWEN_END | {'eos_token': '<|im_end|>'}
LLAMA_IDS = {'bos_token_id': 2, 'eos_token_id': [3, 4, 5]}
T5_IDS = {'eos_token_id': 1, 'pad_token_id': 0, 'decoder_start_token_id': 0}
T5_TOKENS = {'eos_token': '</s>', 'pad_token': '<pad>', 'unk_token': '<unk>'}

LAYOUTS = {
  'gemma 1': (
    GEMMA,
    {'config': {'model_type': 'gemma'} | GEMMA_IDS, 'tokenizer': GEMMA_TOKENS},
    (2, 1),
  ),
  'gemma 2 it, a list beside a scalar': (
    GEMMA,
    {
      'config': {'model_type': 'gemma2'} | GEMMA_IDS | {'eos_token_id': [1, 5]},
      'generation': GEMMA_IDS,
      'tokenizer': {name: {'content': token} for name, token in GEMMA_TOKENS.items()},
    },
    (2, 1),
  ),
  'gemma 3 270m it': (
    GEMMA,
    {
      'config': {'model_type': 'gemma3_text'} | GEMMA_IDS,
      'generation': GEMMA_IDS | {'eos_token_id': [1, 5]},
      'tokenizer': GEMMA_TOKENS,
    },
    (2, 1),
  ),
  'gemma 3 1b': (GEMMA, {'config': {'model_type': 'gemma3_text'} | GEMMA_IDS}, (2, 1)),
  'gemma 3 4b, all files': (
    GEMMA,
    {
      'config': {'model_type': 'gemma3', 'eos_token_id': [1, 5], 'text_config': {}},
      'generation': GEMMA_IDS | {'eos_token_id': [1, 5]},
      'tokenizer': GEMMA_TOKENS,
    },
    (2, 1),
  ),
  'gemma 3 27b, config.json alone': (
    GEMMA,
    {'config': {'model_type': 'gemma3', 'text_config': {}}},
    (2, 1),
  ),
  'gemma 3 12b, ids in text_config': (
    GEMMA,
    {'config': {'model_type': 'gemma3', 'eos_token_id': [1, 5], 'text_config': GEMMA_IDS}},
    (2, 1),
  ),
  'gemma 3 with the end of a turn as EOS': (
    GEMMA,
    {
      'config': {'model_type': 'gemma3_text'} | GEMMA_IDS | {'eos_token_id': [1, 5]},
      'tokenizer': GEMMA_TOKENS | {'eos_token': '<end_of_turn>'},
    },
    (2, 5),
  ),
  'llama 3.2': (
    LLAMA,
    {
      'config': {'model_type': 'llama', 'bos_token_id': 2, 'eos_token_id': 3},
      'tokenizer': {'bos_token': '<|begin_of_text|>', 'eos_token': '<|end_of_text|>'},
    },
    (2, 3),
  ),
  'llama 3.2 instruct, three ends': (
    LLAMA,
    {
      'config': {'model_type': 'llama'} | LLAMA_IDS,
      'generation': LLAMA_IDS,
      'tokenizer': {'bos_token': '<|begin_of_text|>', 'eos_token': '<|eot_id|>'},
    },
    (2, 5),
  ),
  'qwen 3.5 base, ids in text_config': (
    QWEN,
    {
      'config': {'model_type': 'qwen3_5', 'text_config': {'eos_token_id': 2}},
      'tokenizer': QWEN_END,
    },
    (2, 2),
  ),
  'qwen 3.5 instruct, another end in text_config': (
    QWEN,
    {
      'config': {'model_type': 'qwen3_5', 'text_config': {'eos_token_id': 2}},
      'generation': {'eos_token_id': [4, 2], 'pad_token_id': 2},
      'tokenizer': QWEN_CHAT,
    },
    (4, 4),
  ),
  'qwen base': (
    QWEN,
    {
      'config': {'model_type': 'qwen2', 'bos_token_id': 2, 'eos_token_id': 2},
      'generation': {'bos_token_id': 2, 'eos_token_id': 2},
      'tokenizer': QWEN_END,
    },
    (2, 2),
  ),
  'qwen instruct': (
    QWEN,
    {
      'config': {'model_type': 'qwen3', 'bos_token_id': 2, 'eos_token_id': 4},
      'generation': {'bos_token_id': 2, 'eos_token_id': [4, 2], 'pad_token_id': 2},
      'tokenizer': QWEN_CHAT,
    },
    (2, 4),
  ),
  'qwen without BOS: EOS': (
    QWEN,
    {'config': {'model_type': 'qwen3'}, 'tokenizer': QWEN_CHAT},
    (4, 4),
  ),
  'qwen, config.json alone': (QWEN, {'config': {'model_type': 'qwen2'}}, (2, 2)),
  't5 1.0': (T5, {'config': {'model_type': 't5'} | T5_IDS}, (1, 1)),
  'flan': (
    T5,
    {
      'config': {'model_type': 't5'} | T5_IDS,
      'generation': T5_IDS,
      'tokenizer': T5_TOKENS,
      'special': T5_TOKENS,
    },
    (1, 1),
  ),
  'mt5, config.json alone and no tokenizer': ((), {'config': {'model_type': 'mt5'}}, (1, 1)),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_special_ids_of_published_folder_layouts(tmp_path, name):
  tokens, files, expected = LAYOUTS[name]
  found = read(folder_of(tmp_path, tokens, **files))
  assert (found.bos, found.eos) == expected
  assert found.start == 0


def test_places_give_the_source_and_the_chosen_id(tmp_path):
  tokens, files, _ = LAYOUTS['gemma 3 4b, all files']
  places = read(folder_of(tmp_path, tokens, **files)).places
  assert places['eos'] == '1 of [1, 5] (eos_token_id of config.json)'
  assert places['bos'] == '2 (bos_token_id of generation_config.json)'
  places = read(folder_of(tmp_path / 'b', GEMMA, config={'model_type': 'gemma'})).places
  assert places['bos'] == '2 (<bos>, the default of family gemma)'
  places = read(folder_of(tmp_path / 'c', QWEN, config={'model_type': 'qwen3'})).places
  assert places['bos'] == '2, EOS: the family has no BOS'


def test_the_first_place_decides_and_tokens_are_looked_up(tmp_path):
  names = ('<eos>', '<bos>', '<pad>', 'x')  # ids of its own
  folder = folder_of(
    tmp_path, names, config={'model_type': 'gemma'}, special={'bos_token': '<bos>'}
  )
  assert (read(folder).bos, read(folder).eos) == (1, 0)  # the defaults go by name, not by id


def test_the_decoder_begins_with_its_start_token_or_with_padding(tmp_path):
  config = {'model_type': 't5', 'eos_token_id': 1, 'pad_token_id': 3}
  assert read(folder_of(tmp_path / 'a', T5, config=config)).start == 3
  start = {'decoder_start_token_id': 4}
  assert read(folder_of(tmp_path / 'b', T5, config=config | start)).start == 4
  assert read(folder_of(tmp_path / 'c', T5, config=config, generation=start)).start == 4


@pytest.mark.parametrize(
  ('tokens', 'files', 'message'),
  [
    (
      GEMMA,
      {
        'config': {'model_type': 'gemma'} | GEMMA_IDS,
        'tokenizer': {'bos_token': '<start_of_turn>'},
      },
      r'agree on the BOS token; bos_token_id of config.json says 2, bos_token of '
      r'tokenizer_config.json says 4',
    ),
    (
      QWEN,
      {'config': {'model_type': 'qwen2', 'eos_token_id': 2}, 'generation': {'eos_token_id': [4]}},
      r'EOS token; eos_token_id of config.json says 2, eos_token_id of generation_config.json says 4',
    ),
    (
      GEMMA,
      {'config': {'model_type': 'gemma'} | GEMMA_IDS | {'eos_token_id': [1, 11]}},
      r'eos_token_id of config.json in .* must be an id of the 10 tokens of its tokenizer; got 11',
    ),
    (
      GEMMA,
      {'config': {'model_type': 'gemma'} | GEMMA_IDS | {'bos_token_id': 12}},
      r'bos_token_id of config.json in .* must be an id of the 12 rows of its table; got 12',
    ),
    (
      GEMMA,
      {'config': {'model_type': 'gemma'} | GEMMA_IDS, 'tokenizer': {'eos_token': '</s>'}},
      r"eos_token of tokenizer_config.json in .* must name a token of its tokenizer; got '</s>'",
    ),
    (
      QWEN,
      {'config': {'model_type': 'gemma', 'eos_token_id': 2}},
      r'must name the BOS token, such as bos_token_id of config.json; none does, and its tokenizer '
      r'lacks <bos>, the default of family gemma',
    ),
    (
      T5,
      {
        'config': {'model_type': 't5', 'eos_token_id': 1, 'decoder_start_token_id': 0},
        'generation': {'decoder_start_token_id': 2},
      },
      r"agree on the decoder's start token; decoder_start_token_id of config.json says 0",
    ),
  ],
)
def test_contradictory_or_missing_special_tokens_are_refused(tmp_path, tokens, files, message):
  with pytest.raises(ValueError, match=message):
    read(folder_of(tmp_path, tokens, **files))


def test_every_family_has_default_special_tokens():
  for family in FAMILIES.values():
    if family.checkpoints is None:  # its runs have the tokenizer of the preparation
      continue
    assert family.eos is not None
    assert not family.is_encoder_decoder or family.pad is not None
