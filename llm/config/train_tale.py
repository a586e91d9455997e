# The bundled tale, about 9,000 tokens, learned by heart on two CPU cores: what `make demo` runs.
#
#     python data/tale/prepare.py
#     python train.py config/train_tale.py
#
# On two CPU cores (AMD EPYC with AVX-512-BF16): 27 to 30 seconds, recall@50/50 0.9944 (177 of 178 windows).

out_dir = "out-tale"
dataset = "tale"
eval_interval = 100
log_interval = 5

# a small model: on disk, the 50,304-row table is four fifths of its 16 million parameters
n_layer = 4
n_head = 4
n_embd = 256
block_size = 128  # recall@50/50 needs 99
dropout = 0.0  # it is to be learned by heart, not understood
weights = "look_back"  # the heads of the first two blocks begin as ones that see the last tokens

batch_size = 8
gradient_accumulation_steps = 1  # 1,024 tokens an update
opening_weight = 0.1  # what cannot be known need not be learned
short_block = 16  # a prompt is as short
optimizer = "muon"
muon_lr = 0.02
muon_momentum = 0.85
learning_rate = 6e-3
beta1 = 0.8
weight_decay = 0.0

target_recall = 0.99
max_iters = None  # by the length of the text
decay_epochs = 20.0
replay = 0.5
warmup_iters = 3
lr_shape = "linear"
lr_hold = 0.35
min_lr = 2e-4
