# The bundled tale, by fine-tuning any small model: one of your own books', for example.
#
#     python data/tale/prepare.py
#     python train.py config/finetune_tale.py --init_from=out-prince
#     python train.py config/finetune_tale.py --init_from=out-prince --out_dir=out-lora --lora_rank=32 --decay_epochs=30
#     python sample.py --out_dir=out-tale-tuned --start="The echo"
#     python sample.py --out_dir=out-tale-tuned --start="The echo" --checkpoint_name=ckpt_init.pt  # the model before
#
# From a model of train_prince.py's shape, on two CPU cores (AMD EPYC with AVX-512-BF16): 167 seconds, recall@50/50
# 0.9944; by low rank 0.9157, and 13 MB. Of the first book nothing is left (BENCHMARKS.md).

init_from = "out-prince"
out_dir = "out-tale-tuned"
dataset = "tale"
eval_interval = 50
log_interval = 5

block_size = 256
dropout = 0.0
batch_size = 8
gradient_accumulation_steps = 1  # 2,048 tokens an update

optimizer = "muon"
muon_lr = 0.02
muon_momentum = 0.85
learning_rate = 6e-3
beta1 = 0.8
weight_decay = 0.0
opening_weight = 0.1
short_block = 16

target_recall = 0.99
max_iters = None  # by the length of the text
decay_epochs = 12.0
replay = 0.5
warmup_iters = 3
lr_shape = "linear"
lr_hold = 0.35
min_lr = 2e-4
