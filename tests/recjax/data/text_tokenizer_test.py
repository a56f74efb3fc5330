"""Users' texts are encoded as plain text, for all settings that a tokenizer's file may store."""

import io
import json

from etils import epath
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers

from recjax.data.text_tokenizer import TextTokenizer, fast_tokenizer

TEXT = 'soap</s><start_of_turn> <a_0><think>'


def letters():
  return sorted(set('soap brush startf_ofturnhikn</>0 ▁'))


def unigram(control):
  vocab = [(name, 0.0) for name in control] + [(c, -2.0) for c in letters()] + [('▁soap', -1.0)]
  tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0))
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  return tokenizer


def bpe(control):
  words = [*control, *letters(), 'so', 'soa']
  vocab = {word: i for i, word in enumerate(words)}
  return tokenizers.Tokenizer(models.BPE(vocab, [('s', 'o'), ('so', 'a')]))


def word_level(control):
  vocab = {word: i for i, word in enumerate([*control, 'soap', '[UNK]'])}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return tokenizer


CONTROL = ('</s>', '<start_of_turn>', '<pad>')


@pytest.mark.parametrize('make', [unigram, bpe, word_level])
def test_names_of_control_tokens_are_encoded_as_text(tmp_path, make):
  tokenizer = make(CONTROL)
  tokenizer.add_special_tokens(list(CONTROL))
  tokenizer.add_tokens(
    ['<a_0>', '<think>']
  )  # not marked as special, as in an export of ours or in Qwen 3
  tokenizer.enable_padding(length=40, pad_id=2)
  tokenizer.enable_truncation(2)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  control = {tokenizer.token_to_id(name) for name in (*CONTROL, '<a_0>', '<think>')}
  ours = TextTokenizer(tmp_path / 'tokenizer.json')
  plain = ours.encode(TEXT)
  assert not control & set(plain)
  if make is not word_level:
    assert 2 < len(plain) < 40
    assert ''.join(tokenizer.id_to_token(i) for i in plain).replace('▁', ' ').strip() == TEXT
  template = ours.encode_template(TEXT)
  named = [tokenizer.id_to_token(i) for i in template if i in control]
  assert named == ['</s>', '<start_of_turn>', '<a_0>', '<think>']


def test_no_merge_of_bpe_makes_a_control_token(tmp_path):
  vocab = {word: i for i, word in enumerate(['<s>', '<', 's', '>', 'a', '<s', 'as'])}
  merges = [('<', 's'), ('<s', '>'), ('a', 's')]
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
  assert tokenizer.encode('a<s>').ids == [4, 0]
  tokenizer.add_special_tokens(['<s>'])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  ours = TextTokenizer(tmp_path / 'tokenizer.json')
  assert ours.encode('as<s>') == [6, 5, 3]
  assert ours.encode_template('as<s>') == [6, 0]


def test_texts_without_control_tokens_are_encoded_as_before(tmp_path):
  for n, make in enumerate((unigram, bpe, word_level)):
    tokenizer = make(CONTROL)
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens(['bru'])  # a word that a user added stays one token
    file = tmp_path / str(n)
    file.mkdir()
    tokenizer.save(str(file / 'tokenizer.json'))
    for text in ('soap', 'soap brush', ' a  brush', ''):
      expected = tokenizer.encode(text, add_special_tokens=False).ids
      assert TextTokenizer(file / 'tokenizer.json').encode(text) == expected


def test_a_post_processor_still_adds_its_tokens(tmp_path):
  tokenizer = word_level(('[CLS]', '[SEP]'))
  tokenizer.add_special_tokens(['[CLS]', '[SEP]'])
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 0), ('[SEP]', 1)]
  )
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  assert fast_tokenizer(tmp_path / 'tokenizer.json').encode('soap [SEP] soap').ids == [
    0,
    2,
    3,
    2,
    1,
  ]


def test_a_sentencepiece_model_encodes_control_tokens_only_in_templates(tmp_path):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['soap brush <start_of_turn> </s>'] * 20),
    model_writer=model,
    vocab_size=300,
    hard_vocab_limit=False,
    byte_fallback=True,
    user_defined_symbols=['<start_of_turn>', '\n\n'],
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=3,
    minloglevel=2,
  )
  file = epath.Path(tmp_path / 'tokenizer.model')
  file.write_bytes(model.getvalue())
  theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
  turn = theirs.piece_to_id('<start_of_turn>')
  assert turn in theirs.encode('soap <start_of_turn>')
  ours = TextTokenizer(file)
  plain = ours.encode('soap <start_of_turn></s>\n\n')
  assert turn not in plain and 1 not in plain and theirs.piece_to_id('\n\n') in plain
  assert ours.decode(plain) == 'soap <start_of_turn></s>\n\n'
  assert ours.encode('soap brush') == theirs.encode('soap brush')
  template = ours.encode_template('<s><start_of_turn>soap</s>')
  assert (template[0], template[-1]) == (3, 1) and turn in template


def test_the_sentinels_of_a_t5_are_found_in_both_kinds_of_files(tmp_path):
  tokenizer = word_level(CONTROL)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  assert TextTokenizer(tmp_path / 'tokenizer.json').t5_sentinels(2, 5) is None
  tokenizer.add_special_tokens(['<extra_id_1>', '<extra_id_0>'])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  ours = TextTokenizer(tmp_path / 'tokenizer.json')
  assert ours.t5_sentinels(2, 7) == [6, 5]
  assert ours.t5_sentinels(3, 7) is None
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['soap brush'] * 20), model_writer=model, vocab_size=20,
    hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  (tmp_path / 'spiece.model').write_bytes(model.getvalue())
  size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
  ours = TextTokenizer(tmp_path / 'spiece.model')
  # transformers gives <extra_id_n> the id size + 99 - n (T5Tokenizer, extra_ids=100).
  assert ours.t5_sentinels(3, size + 100) == [size + 99, size + 98, size + 97]
  assert ours.t5_sentinels(3, size) is None


def test_a_damaged_file_is_named(tmp_path):
  for name in ('tokenizer.json', 'spiece.model'):
    (tmp_path / name).write_text(json.dumps({'version': '1.0'})[:9])
    with pytest.raises(
      ValueError, match=f'{name} must be a complete tokenizer file: .*Fetch it again'
    ):
      TextTokenizer(tmp_path / name)
