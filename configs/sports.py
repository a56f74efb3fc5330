"""Amazon Sports and Outdoors (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/sports.py:cpu --config.data.raw_dir=FOLDER   (after `make encoder`)
Hardware:  2 cores, 24 GiB, no accelerator
Time:      30 min 45 s from raw files to report, other work beside it (2,000 steps)
Figure:    all 35,598 test users: recall@10 0.0420 ± 0.0011, recall@5 0.0273, ndcg@10 0.0225, on generated item texts
           (transition counting 0.0433, 0.0320, 0.0261; popularity 0.0091; results/sports_cpu.json)
"""

from configs import common


def get_config(variant: str = ''):
  config = common.experiment('amazon2014', 'sports', variant, category='Sports_and_Outdoors')
  config.data.item_text = 'generated'  # of the copy that the figures above were measured on
  return config
