"""Sizes and shapes of the compiled programs."""

import jax
import numpy as np
import pytest

from launch.compile import programs
from recjax.sharding import mesh as mesh_lib
from tests.launch.compile.examples import config_of


def test_sizes_come_from_the_config_and_assumptions_are_reported():
  sizes = programs.sizes(config_of('flan_t5_xl'))
  assert sizes.space.text_size == 32_100 + 34
  assert sizes.space.level_sizes == (256, 256, 256, programs.DEDUPLICATION)
  assert '32,100 text pieces (the tokenizer of flan_t5_xl' in sizes.assumed[0]
  assert 'a de-duplication level of 16 codes' in sizes.assumed
  assert programs.sizes(config_of('gemma3_4b')).space.text_size == 262_208 + 34
  own = programs.sizes(
    config_of('flat', **{'sids.collisions': 'keep', 'data.text_pieces': 999}), 77
  )
  assert own.space.text_size == 999 + 34
  assert own.space.num_levels == 3 and own.sids.num_items == 77
  few = programs.sizes(
    config_of('flat', **{'sids.codes': (4, 4)}), 1000
  )  # 16 cells for 1,000 items
  assert few.space.level_sizes[-1] >= 2 * 1000 // 16


@pytest.mark.parametrize('variant', ['flat', 't5_small'])
def test_the_programs_have_the_shapes_of_a_run(variant):
  config = config_of(variant, **{'mesh.fsdp': 8, 'mesh.data': 1})
  made = programs.Programs(config, programs.sizes(config), mesh_lib.make_mesh(config.mesh))
  assert made.batch['targets'].shape == (config.batch_size, 128)  # T5's decoder, or the decoder
  assert made.batch['dropped'].shape == (config.batch_size,)
  assert ('encoder_tokens' in made.batch) == (variant == 't5_small')
  assert not made.text_targets
  trie, prompts, excluded = made.search_arguments()
  assert prompts['tokens'].shape == (128, 128)  # 24 + 19 x 4, up to a multiple of 32
  assert excluded.shape == (128, programs.HISTORY)
  assert trie.num_nodes[-1] == programs.ITEMS
  whole = sum(np.prod(x.shape) * 4 for x in jax.tree.leaves(made.state.params))
  assert whole / 8 <= programs.bytes_a_device(made.state.params) <= 1.05 * whole / 8


def test_a_batch_that_does_not_match_the_mesh_is_rejected():
  config = config_of(**{'mesh.fsdp': 8, 'mesh.data': 1, 'grad_accumulation': 32})
  with pytest.raises(ValueError, match=r'batch shards x grad_accumulation \(256\); got 128'):
    programs.Programs(config, programs.sizes(config), mesh_lib.make_mesh(config.mesh))
