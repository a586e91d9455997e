# Shakespeare, character by character: nanoGPT's classic, with its settings. A part of the text is held out, and ckpt.pt
# is the state with the lowest loss on it.
#
#     python data/shakespeare_char/prepare.py
#     python train.py config/train_shakespeare_char.py
#
# Not measured here. nanoGPT's README gives a validation loss of 1.4697 nats per character for these settings, after 3
# minutes on an A100. For CPUs it proposes a smaller model, with a loss of about 1.88: --block_size=64 --batch_size=12
# --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --eval_iters=20.

out_dir = "out-shakespeare-char"
dataset = "shakespeare_char"
eval_interval = 250
eval_iters = 200
log_interval = 10
always_save_checkpoint = False

n_layer = 6
n_head = 6
n_embd = 384
block_size = 256
dropout = 0.2

batch_size = 64
gradient_accumulation_steps = 1
learning_rate = 1e-3
beta2 = 0.99
warmup_iters = 100
max_iters = 5000
