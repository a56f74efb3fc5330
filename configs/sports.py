"""Amazon Sports and Outdoors (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/sports.py:cpu --config.data.raw_dir=FOLDER --config.data.item_text=generated   (after `make encoder`)
           python -m recjax.main --config=configs/sports.py:gpu …
Hardware:  2 cores, 24 GiB, no accelerator; one GPU with :gpu
Time and figures: results/README.md; README.md compares them with baselines and published figures
FOLDER held a copy with generated item texts. With the published files leave that flag out.
"""

from configs import common


def get_config(variant: str = 'gpu'):
  return common.amazon2014('sports', 'Sports_and_Outdoors', variant, encoder='minilm')
