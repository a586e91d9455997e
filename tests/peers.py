"""Do other programs say what ours says? Exports a learned model and lets transformers and llama.cpp go on greedily.

    python tests/peers.py [out_dir]     # the tale's, which `make demo` leaves in llm/out-tale; trained here if missing

Not collected by pytest: llama-cpp-python (extra: peers) takes long to install.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from llm import export
from llm.reading.generate import allowed_ids, generate
from llm.reading.reader import Reader
from llm.storage import pretrained

HERE = Path(export.__file__).parent
PROMPTS = ("Keep your finger on", "The echo", "Once upon a time")
TOKENS = 100


def ours(out_dir: str, prompt: str) -> list[int]:
    model, tokenizer, info = pretrained.load_model(out_dir)
    reader = Reader(model, allowed_ids(info.corpus_ids, tokenizer.vocab_size), torch.float32)
    return [token for _, token in generate(reader, tokenizer.encode(prompt), max_new_tokens=TOKENS)]


def of_transformers(folder: Path, prompt: str) -> list[int]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = tokenizer(prompt, return_tensors="pt")
    options = dict(max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None)
    return model.generate(**asked, **options)[0, asked["input_ids"].size(1) :].tolist()


def of_llama_cpp(file: Path, prompt: str) -> list[int]:
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=0, verbose=False, logits_all=False)
    ids = model.tokenize(prompt.encode(), add_bos=False)
    said = []
    for token in model.generate(ids, temp=0.0, repeat_penalty=1.0):
        said.append(token)
        if len(said) == TOKENS:
            return said


def main() -> None:
    out_dir = sys.argv[1] if len(sys.argv) > 1 else str(HERE / "out-tale")
    if not Path(out_dir, "ckpt.pt").exists():
        for script in (["data/tale/prepare.py"], ["train.py", "config/train_tale.py"]):
            subprocess.run([sys.executable, *script], cwd=HERE, check=True)
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        hf, gguf = Path(folder) / "hf", Path(folder) / "gguf"
        export.main(export.Settings(out_dir=out_dir, to=str(hf)))
        export.main(export.Settings(out_dir=out_dir, to=str(gguf), format="gguf"))
        for prompt in PROMPTS:
            expected = ours(out_dir, prompt)
            for name, said in (
                ("transformers", of_transformers(hf, prompt)),
                ("llama.cpp", of_llama_cpp(gguf / "model.gguf", prompt)),
            ):
                same = next((n for n, (a, b) in enumerate(zip(said, expected, strict=True)) if a != b), TOKENS)
                different += same < TOKENS
                print(f"{name}, {prompt!r}: {same} of {TOKENS} tokens the same")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
