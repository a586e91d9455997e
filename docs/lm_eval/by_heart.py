"""The windows and the figures of by_heart.yaml, for lm-evaluation-harness. Needs datasets and transformers."""

import math
from pathlib import Path

EXTRACTABLE = math.log(0.001)


def windows(text: str, tokenizer: str | None = None, pretrained: str | None = None, **lengths) -> dict:
    """The task's dataset; text: a file; tokenizer: of the model, None = pretrained's; lengths: see `cut`."""
    import datasets
    import transformers

    encoder = transformers.AutoTokenizer.from_pretrained(tokenizer or pretrained, trust_remote_code=False)
    return {"test": datasets.Dataset.from_list(cut(Path(text).read_text(encoding="utf-8"), encoder, **lengths))}


def cut(content: str, encoder, *, prefix: int = 50, suffix: int = 50, stride: int = 50, **others) -> list[dict]:
    """Prefix and suffix of each window, as text; lengths are in tokens. others: what else the harness passes."""
    offsets = encoder(content, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    borders = [0, *(end for _, end in offsets)]  # white space before a token belongs to it
    found = []
    for start in range(0, len(offsets) - prefix - suffix + 1, stride):
        begin, middle, end = (borders[start + n] for n in (0, prefix, prefix + suffix))
        found.append({"prefix": content[begin:middle], "suffix": content[middle:end]})
    return found


def figures(doc: dict, results: list) -> dict:
    """The metrics of one window; results: (log-likelihood, whether greedy decoding produces the suffix)."""
    log_p, greedy = results[0]
    return {"recall": float(greedy), "log_p": log_p, "extractable": float(log_p >= EXTRACTABLE)}
