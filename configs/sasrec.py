"""SASRec with full softmax on Amazon (2014, 5-core), leave-one-out: the baseline as a run of its own.

Command:   python -m recjax.main --config=configs/sasrec.py:beauty --config.data.raw_dir=FOLDER    (or sports, toys)
Hardware:  2 cores, 24 GiB, no accelerator
Time and figures: results/sasrec.json; none for toys, whose raw files were not available
"""

from configs import common
from recjax.baselines.sasrec import RECIPE

SPORTS_EPOCHS = (
  26.0  # with 18,357 items an epoch takes 1.7 times that of Beauty; more do not fit into 30 minutes
)
CATEGORIES = {'beauty': 'Beauty', 'sports': 'Sports_and_Outdoors', 'toys': 'Toys_and_Games'}


def get_config(variant: str = 'beauty'):
  common.check_variant(variant, tuple(CATEGORIES))
  config = common.start('amazon2014', variant, category=CATEGORIES[variant])
  config.data.k_core = 5
  config.data.text_pieces = 512  # no text is read; few pieces are learned fast
  config.update(RECIPE)
  if variant == 'sports':
    config.num_epochs = SPORTS_EPOCHS
  return config
