# The Little Prince (or any book, with --dataset=NAME) learned by fine-tuning GPT-2, 124 million parameters. Needs the
# extra hf, and GPT-2's weights: downloaded once, or in a folder (--init_from=FOLDER).
#
#     pip install -e ".[hf]"
#     python data/prince/prepare.py
#     python train.py config/finetune_prince.py
#     python sample.py --out_dir=out-prince-gpt2 --start="Then the little prince said"
#     python sample.py --out_dir=out-prince-gpt2 --start="Then the little prince said" --checkpoint_name=ckpt_init.pt
#
# With LoRA, whose checkpoints take some MB instead of 1.5 GB: --lora_rank=32 --optimizer=muon --decay_epochs=30.
# Not measured: GPT-2's weights cannot be had where we develop, so the learning rates are those usual for GPT-2.

init_from = "gpt2"
out_dir = "out-prince-gpt2"
dataset = "prince"
eval_interval = 50
log_interval = 5

block_size = 256  # of GPT-2's 1,024 positions
dropout = 0.0
batch_size = 8
gradient_accumulation_steps = 2  # 4,096 tokens per update

learning_rate = 1e-4
weight_decay = 0.0
target_recall = 0.99
max_iters = None  # follows from the length of the text
decay_epochs = 15.0
replay = 0.5
warmup_iters = 10
lr_shape = "linear"
min_lr = 1e-5
