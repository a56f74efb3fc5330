"""The item decoder with an item head on Amazon (2014, 5-core), leave-one-out: one position an item.

Command:   python -m recjax.main --config=configs/item.py:beauty --config.data.raw_dir=FOLDER    (or sports, toys; for the
           encoder of item texts run `make encoder` first)
Hardware:  2 cores, 24 GiB, no accelerator; or one accelerator
Figures:   results/README.md
"""

from configs import common

CATEGORIES = {'beauty': 'Beauty', 'sports': 'Sports_and_Outdoors', 'toys': 'Toys_and_Games'}


def get_config(variant: str = 'beauty'):
  common.check_variant(variant, tuple(CATEGORIES))
  config = common.start('amazon2014', variant, category=CATEGORIES[variant])
  config.data.k_core = 5
  config.data.text_pieces = 512  # no text is read; few pieces are learned fast
  config.sids.codes = (256, 256, 256)
  config.mixture.next_item.max_items = 21  # histories of 20
  config.mixture.next_item.item_dropout = 0.1
  config.model.family = 'item_decoder'
  config.model.item_rows = True
  config.model.item_head = True
  config.loss.item_head = 3.0  # the best of results/item_trials.json by validation users
  config.model.depth = 2
  config.model.width = 128
  config.model.ff_width = 256
  config.model.heads = 4
  config.model.dropout = 0.4
  config.model.scan_unroll = 2
  config.packing.row_length = 84  # a window of 21 items of 4 codes
  config.packing.rows = 32
  config.batch_size = 96  # about 256 windows
  config.num_train_steps = None
  config.num_epochs = 24.0
  config.optim.learning_rate = 2e-3
  config.optim.weight_decay = 0.05
  config.optim.warmup_steps = None
  config.eval.memory.counts = 'transitions'
  config.log_every_steps = None
  config.eval_every_steps = None
  config.checkpoint_every_steps = None
  return config
