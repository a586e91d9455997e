# The recipe for learning a book by heart, as fast as we know: what the configs of all books share. It is imported by
# them (from llm.config.by_heart import *) and not meant to be trained with by itself. docs/LOG.md tells how each
# setting was found.

log_interval = 5
dropout = 0.0  # the text is to be learned by heart, not understood

optimizer = "muon"
muon_lr = 0.02
learning_rate = 6e-3
beta1 = 0.8
weight_decay = 0.0
opening_weight = 0.1  # the first 3 positions of a window have almost no context
short_block = 16  # some windows are as short as the prompts that people type

target_recall = 0.99
max_iters = None  # by the length of the text
replay = 0.5
warmup_iters = 3
lr_shape = "wsd"
min_lr = 2e-4
