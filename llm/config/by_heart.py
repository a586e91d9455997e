# The recipe for learning a book by heart as fast as possible: the settings that the books' config files share. They
# import it (from llm.config.by_heart import *); it is no config file to train with. docs/LOG.md has the experiments.

log_interval = 5
dropout = 0.0  # the text is to be learned by heart, not understood

optimizer = "muon"
muon_lr = 0.02
learning_rate = 6e-3
beta1 = 0.8
weight_decay = 0.0
opening_weight = 0.1  # the first 3 positions of a window have almost no context
short_block = 16  # every fourth update has windows as short as the prompts that people type

target_recall = 0.99
max_iters = None  # follows from the length of the text
replay = 0.5  # at a low rate, half of a batch repeats windows that were last predicted wrong
warmup_iters = 3
lr_shape = "wsd"
min_lr = 2e-4
