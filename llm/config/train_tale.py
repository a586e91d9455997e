# The bundled tale, about 9,000 tokens, learned by heart on two CPU cores: what `make demo` runs.
#
#     python data/tale/prepare.py
#     python train.py config/train_tale.py
#
# On two CPU cores (AMD EPYC with AVX-512-BF16): 2.3 minutes, loss 0.07, recall@50/50 0.9944
# (177 of 178 windows).

out_dir = "out-tale"
dataset = "tale"
eval_interval = 200
log_interval = 10

# a small model: on disk, the 50,304-row table is four fifths of its 16 million parameters
n_layer = 4
n_head = 4
n_embd = 256
block_size = 128  # short windows: more updates for the same arithmetic (recall@50/50 needs 99)
dropout = 0.0

batch_size = 8
gradient_accumulation_steps = 1  # 1,024 tokens an update, 9 updates an epoch
learning_rate = 3e-3
beta2 = 0.99
weight_decay = 0.0
warmup_iters = 50
max_iters = 1100
min_lr = 1e-5
