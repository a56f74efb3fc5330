"""The value of `sids.encoder`."""

import pytest

from data_prep.encoders import choice


def test_a_misspelt_encoder_is_one_line_with_the_nearest_name():
  with pytest.raises(ValueError, match=r"got 'minilmm', .* did you mean minilm\?$"):
    choice.input_files('minilmm')
