"""Write GPT-2 models as GGUF files, which llama.cpp runs. Needs the extra gguf.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here reads GGUF.
"""

from pathlib import Path

import numpy as np

from llm.configurator import require
from llm.model import GPT
from llm.text.tokenizer import BytePairs, all_merges, printable_tokens

NAMES = {  # parts of our weights' names -> llama.cpp's
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "transformer.h.": "blk.",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
PRE_TOKENIZERS = {"gpt2": "gpt-2", "marks": "qwen35"}  # tokenizer.PATTERNS -> llama.cpp's names of the same patterns


def tensor_name(name: str) -> str:
    """llama.cpp's name of one of our weights: transformer.h.0.ln_1.weight -> blk.0.attn_norm.weight."""
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def save(model: GPT, tokenizer: BytePairs, path: Path, *, name: str) -> None:
    """Write the model, float32, and its tokenizer as llama.cpp's architecture "gpt2"; name: shown by llama.cpp."""
    gguf = require("gguf", "gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(name)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, gguf, tokenizer, table_size=config.vocab_size)
    for ours, tensor in model.state_dict().items():
        if ours == "lm_head.weight":  # tied: llama.cpp takes the token table for both
            continue
        writer.add_tensor(tensor_name(ours), tensor.numpy())
        if not config.bias and ".wte" not in ours and ".wpe" not in ours:  # llama.cpp's gpt2 requires biases
            bias = np.zeros(len(tensor), np.float32)
            writer.add_tensor(tensor_name(ours.removesuffix("weight") + "bias"), bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, gguf, tokenizer: BytePairs, *, table_size: int) -> None:
    """Add a tokenizer to a GGUFWriter; ids from its vocab_size to table_size - 1 are padding. gguf: the module."""
    tokens, end = printable_tokens(tokenizer.merges), tokenizer.end_of_text
    types = [gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL]
    padding = range(len(tokens), table_size)
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-pair encodings
    writer.add_tokenizer_pre(PRE_TOKENIZERS[tokenizer.pattern])
    writer.add_token_list(tokens + [f"[PAD{number}]" for number in padding])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges(all_merges(tokenizer))
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
