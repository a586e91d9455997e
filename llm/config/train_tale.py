# the bundled tale, learned by heart on a laptop
out_dir = "out-tale"
dataset = "tale"
n_layer = 4
n_head = 4
n_embd = 192
block_size = 128
batch_size = 8
gradient_accumulation_steps = 1
learning_rate = 3e-3
beta2 = 0.99
weight_decay = 0.0
warmup_iters = 50
max_iters = 800
eval_interval = 200
log_interval = 10
