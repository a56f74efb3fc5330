"""Checkpoint folders of `transformers`: read into sharded parameters, and written with SID tokens."""

from recjax.models.pretrained.config_file import Pretrained as Pretrained
from recjax.models.pretrained.config_file import family_of as family_of
from recjax.models.pretrained.config_file import known_family as known_family
from recjax.models.pretrained.config_file import read_config as read_config
from recjax.models.pretrained.converting import converter as converter
from recjax.models.pretrained.converting import held as held
from recjax.models.pretrained.hub import fetch as fetch
from recjax.models.pretrained.hub import is_name as is_name
from recjax.models.pretrained.hub import path as path
from recjax.models.pretrained.hub import resolve as resolve
from recjax.models.pretrained.ids import IdMap as IdMap
from recjax.models.pretrained.ids import id_map as id_map
from recjax.models.pretrained.ids import text_pieces as text_pieces
from recjax.models.pretrained.reading import abstract as abstract
from recjax.models.pretrained.reading import check_folder as check_folder
from recjax.models.pretrained.reading import load as load
from recjax.models.pretrained.scratch import described as described
from recjax.models.pretrained.scratch import write_tokenizer as write_tokenizer
from recjax.models.pretrained.tokenizer_files import tokenizer_size as tokenizer_size
from recjax.models.pretrained.writing import check_export as check_export
from recjax.models.pretrained.writing import check_out as check_out
from recjax.models.pretrained.writing import export as export
from recjax.models.pretrained.writing import gathered as gathered
from recjax.models.pretrained.writing import partial_folder as partial_folder
