"""config.json and tokenizer.json of models that were trained from scratch."""

import random

import pytest
import sentencepiece
import tokenizers

from data_prep.texts.tokenizer import train_model
from recjax.models import families, pretrained
from recjax.models.pretrained import scratch
from tests.goldens.make_decoders import GOLDENS

TEXTS = ['The customer bought:  dove soap 12 oz', 'Héllo wörld ﬁ ½ bottle', '日本語 テキスト'] * 50


@pytest.mark.parametrize('kind', sorted(path.parent.name for path in GOLDENS.glob('*/config.json')))
def test_config_json_describes_the_shape_of_every_golden_model(kind):
  found = pretrained.read_config(GOLDENS / kind)
  again = scratch.described(found.family, found.config, 64, 2, 1).hf
  assert again['vocab_size'] == 64 and again['eos_token_id'] == 1
  assert again['model_type'] == (found.hf['model_type'] if kind != 'mt5' else 't5')


def test_config_json_describes_every_published_size():
  for name in families.sizes():
    family = families.by_size(name)
    shape = family.sizes[name].shape
    hf = scratch.described(family, shape, 64, 2, 1).hf  # raises unless it is read back
    is_t5 = family.is_encoder_decoder
    assert hf['d_model' if is_t5 else 'hidden_size'] == shape.width, name
    assert hf['num_layers' if is_t5 else 'num_hidden_layers'] == shape.depth, name


def test_tokenizer_json_encodes_and_decodes_as_the_sentencepiece_model(tmp_path):
  (tmp_path / 'spiece.model').write_bytes(train_model(TEXTS, 400))
  theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'spiece.model'))
  scratch.write_tokenizer(tmp_path / 'spiece.model', tmp_path, 3, 1)
  ours = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  rng, letters = random.Random(0), 'abc deh  ﬁ½é日本🙂\t\n:,_0129 ▁'
  made = [''.join(rng.choices(letters, k=rng.randrange(30))) for _ in range(500)]
  for text in [*TEXTS[:3], '', ' ', 'bought, in this order: ', *made]:
    ids = theirs.encode(text)
    assert ours.encode(text, add_special_tokens=False).ids == ids, repr(text)
    assert ours.decode(ids) == theirs.decode(ids), repr(text)


def test_a_model_of_another_type_is_refused(tmp_path):
  (tmp_path / 'texts').write_text('\n'.join(TEXTS))
  sentencepiece.SentencePieceTrainer.train(
    input=str(tmp_path / 'texts'), model_prefix=str(tmp_path / 'bpe'), vocab_size=80,
    model_type='bpe', minloglevel=2,
  )  # fmt: skip
  with pytest.raises(ValueError, match='must be a unigram model'):
    scratch.write_tokenizer(tmp_path / 'bpe.model', tmp_path, 3, 1)
