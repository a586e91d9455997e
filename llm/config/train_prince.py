# The Little Prince (or any book) learned by heart, from scratch: 30 million parameters.
#
#     python data/prince/prepare.py
#     python train.py config/train_prince.py
#
# A book of your own, prepared with data/book/prepare.py:
#
#     python train.py config/train_prince.py --dataset=my_book --out_dir=out-my_book
#
# Measured on Brother Jacob, a public-domain book of the same size (21,544 tokens), on two CPU cores (AMD EPYC with
# AVX-512-BF16), 2026-11-26: 28 seconds from the command to its end, recall@50/50 1.0000, recall@8/50 0.998 (medians of
# three seeds; BENCHMARKS.md). The published reference trained a model of this shape for 5 minutes on a rented GPU.
# Where a text cannot be written (README.md), it is learned by gradient descent, to which the settings from `batch_size`
# on belong.

from llm.config.by_heart import *  # noqa: F403 (the recipe)

out_dir = "out-prince"
dataset = "prince"
eval_interval = 100

n_layer = 6
n_head = 6
n_embd = 384
max_n_embd = 1536  # a longer text is written into a larger model: 200,000 tokens into 13 blocks of width 832
block_size = 256
weights = "written"  # in closed form; where that cannot work, by gradient descent from look-back weights

batch_size = 16
gradient_accumulation_steps = 1  # 4,096 tokens per update

decay_epochs = 8.0
