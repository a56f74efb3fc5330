"""SASRec with full softmax: the hyper-parameters that configs/sasrec.py and the baseline `sasrec` share.

Klenitskiy and Vasilev ("Turning dross into gold loss", RecSys 2023) and Di Teodoro et al. (arXiv 2402.16304) found that SASRec
with a softmax over the catalogue is as good as later models. The values were chosen by ndcg@10 on validation users of Beauty,
with seed 0 alone.
"""

from typing import Any

# Fields of the config, by section.
RECIPE: dict[str, Any] = {
  'sids': {
    'quantizer': 'item',
    'codes': (),
  },  # one token an item: the softmax of a level is the full one
  'mixture': {'next_item': {'max_items': 50, 'prompts': ('{history}',), 'crop': 0.5}},
  'model': {
    'family': 'sasrec',
    'depth': 2,
    'width': 128,
    'ff_width': 128,
    'heads': 2,
    'kv_heads': 2,
    'head_width': 64,
    'max_positions': 64,
    'dropout': 0.5,
    'scan_unroll': 2,
  },
  'packing': {'row_length': 64, 'rows': 32},
  'batch_size': 32,
  'num_train_steps': None,
  'num_epochs': 60.0,
  'optim': {'learning_rate': 1e-3, 'weight_decay': 0.1, 'warmup_steps': None},
  'eval': {'beams': 20, 'eval_users': 5000},
  'log_every_steps': None,
  'eval_every_steps': None,
  'checkpoint_every_steps': None,
}
