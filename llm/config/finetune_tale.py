# The bundled tale, learned by fine-tuning a small model: for example one that has learned your own book.
#
#     python data/tale/prepare.py
#     python train.py config/finetune_tale.py --init_from=out-prince
#     python train.py config/finetune_tale.py --init_from=out-prince --out_dir=out-lora --lora_rank=32 --decay_epochs=30
#     python sample.py --out_dir=out-tale-tuned --start="The echo"
#     python sample.py --out_dir=out-tale-tuned --start="The echo" --checkpoint_name=ckpt_init.pt  # the model before
#
# Measured from a model of train_prince.py's shape that learned by gradient descent, on two CPU cores (AMD EPYC with
# AVX-512-BF16), 2026-11-23: all weights, 87 updates in 167 seconds, recall@50/50 0.9944; LoRA, 264 updates, 0.9157, and
# a checkpoint of 13 MB. From a model that was written in closed form, as is the default now: 106 updates, 0.2528. The
# recall of the first book falls to 0 (BENCHMARKS.md, "Fine-tuning, LoRA and export"). To add a book, use learn.py.

from llm.config.by_heart import *  # noqa: F403 (the recipe)

init_from = "out-prince"
out_dir = "out-tale-tuned"
dataset = "tale"
eval_interval = 50

block_size = 256
batch_size = 8
gradient_accumulation_steps = 1  # 2,048 tokens per update

decay_epochs = 12.0
