# The Little Prince (or any book of its size, about 22,000 tokens) learned by heart, from scratch.
#
#     python data/prince/prepare.py
#     python train.py config/train_prince.py
#
# A book of your own, prepared with data/book/prepare.py:
#
#     python train.py config/train_prince.py --dataset=my_book --out_dir=out-my_book
#
# The reference trained this shape for 5 minutes on a rented GPU. Here, on two CPU cores (AMD EPYC with AVX-512-BF16)
# and a public-domain book of that size: 23 minutes, loss 0.1, recall@50/50 0.73 (BENCHMARKS.md, "Baseline").
# max_iters suits about 22,000 tokens (80 epochs); for a longer book raise it in proportion.

out_dir = "out-prince"
dataset = "prince"
eval_interval = 250
log_interval = 10

# the reference's shape: 30 million parameters with GPT-2's encoding
n_layer = 6
n_head = 6
n_embd = 384
block_size = 256
dropout = 0.0  # it is to be learned by heart, not understood

# small batches: what counts for learning by heart is the number of updates
batch_size = 4
gradient_accumulation_steps = 1  # 1,024 tokens an update, 21 updates an epoch
learning_rate = 2e-3
beta2 = 0.99
weight_decay = 0.0
warmup_iters = 100
max_iters = 1800
min_lr = 1e-5
