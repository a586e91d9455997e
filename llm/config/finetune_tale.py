# The bundled tale, by fine-tuning any small model: one of your own books', for example.
#
#     python data/tale/prepare.py
#     python train.py config/finetune_tale.py --init_from=out-prince
#     python train.py config/finetune_tale.py --init_from=out-prince --out_dir=out-lora --lora_rank=32 --decay_epochs=30
#     python sample.py --out_dir=out-tale-tuned --start="The echo"
#     python sample.py --out_dir=out-tale-tuned --start="The echo" --checkpoint_name=ckpt_init.pt  # the model before
#
# From a model of train_prince.py's shape, on two CPU cores (AMD EPYC with AVX-512-BF16): 167 seconds, recall@50/50
# 0.9944; with LoRA 0.9157, and 13 MB. Of the first book nothing is left (BENCHMARKS.md).

from llm.config.by_heart import *  # noqa: F403 (the recipe)

init_from = "out-prince"
out_dir = "out-tale-tuned"
dataset = "tale"
eval_interval = 50

block_size = 256
batch_size = 8
gradient_accumulation_steps = 1  # 2,048 tokens per update

decay_epochs = 12.0
