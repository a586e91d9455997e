"""Compare exported models with ours: transformers and llama.cpp continue prompts greedily, token by token.

    python tests/peers.py [out_dir]     # default: the tale that `make demo` leaves in llm/out-tale; trained if missing

Not collected by pytest, because llama-cpp-python (extra: peers) takes a quarter of an hour to install.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from llm import export
from llm.configurator import PACKAGE
from llm.reading.generate import allowed_ids, generate
from llm.reading.reader import Reader
from llm.storage import pretrained

PROMPTS = ("Keep your finger on", "The echo", "Once upon a time")
MAX_NEW_TOKENS = 100


def continue_ours(out_dir: str, prompt: str) -> list[int]:
    """Our greedy continuation, in token ids."""
    model, tokenizer, info = pretrained.load_model(out_dir)
    reader = Reader(model, allowed_ids(info.corpus_ids, tokenizer.vocab_size), torch.float32)
    return [token for _, token in generate(reader, tokenizer.encode(prompt), max_new_tokens=MAX_NEW_TOKENS)]


def continue_transformers(folder: Path, prompt: str) -> list[int]:
    """The greedy continuation of transformers, in token ids."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(prompt, return_tensors="pt")
    options = dict(max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None)
    return model.generate(**inputs, **options)[0, inputs["input_ids"].size(1) :].tolist()


def continue_llama_cpp(file: Path, prompt: str) -> list[int]:
    """The greedy continuation of llama.cpp, in token ids."""
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=0, verbose=False, logits_all=False)
    ids = model.tokenize(prompt.encode(), add_bos=False)
    continuation = []
    for token in model.generate(ids, temp=0.0, repeat_penalty=1.0):
        continuation.append(token)
        if len(continuation) == MAX_NEW_TOKENS:
            break
    return continuation


def main() -> None:
    out_dir = sys.argv[1] if len(sys.argv) > 1 else str(PACKAGE / "out-tale")
    if not Path(out_dir, "ckpt.pt").exists():
        for script in (["data/tale/prepare.py"], ["train.py", "config/train_tale.py"]):
            subprocess.run([sys.executable, *script], cwd=PACKAGE, check=True)
    n_different = 0
    with tempfile.TemporaryDirectory() as folder:
        hf, gguf = Path(folder) / "hf", Path(folder) / "gguf"
        export.main(export.Settings(out_dir=out_dir, to=str(hf)))
        export.main(export.Settings(out_dir=out_dir, to=str(gguf), format="gguf"))
        for prompt in PROMPTS:
            expected = continue_ours(out_dir, prompt)
            for name, continuation in (
                ("transformers", continue_transformers(hf, prompt)),
                ("llama.cpp", continue_llama_cpp(gguf / "model.gguf", prompt)),
            ):
                pairs = enumerate(zip(continuation, expected, strict=True))
                n_equal = next((n for n, (a, b) in pairs if a != b), MAX_NEW_TOKENS)
                n_different += n_equal < MAX_NEW_TOKENS
                print(f"{name}, {prompt!r}: the first {n_equal} of {MAX_NEW_TOKENS} tokens are the same")
    sys.exit(n_different > 0)


if __name__ == "__main__":
    main()
