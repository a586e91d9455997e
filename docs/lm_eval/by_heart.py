"""The windows and the figures of by_heart.yaml, for lm-evaluation-harness. Needs datasets and transformers."""

import math
from pathlib import Path

EXTRACTABLE = math.log(0.001)


def windows(
    text: str, tokenizer: str | None = None, prefix: int = 50, suffix: int = 50, stride: int = 50, **others
) -> dict:
    """The task's dataset: prefix and suffix of each window, as text. others: what else the harness passes."""
    import datasets
    import transformers

    encoder = transformers.AutoTokenizer.from_pretrained(tokenizer or others["pretrained"], trust_remote_code=False)
    content = Path(text).read_text(encoding="utf-8")
    offsets = encoder(content, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    borders = [0, *(end for _, end in offsets)]  # white space before a token belongs to it
    found = []
    for start in range(0, len(offsets) - prefix - suffix + 1, stride):
        begin, middle, end = (borders[start + n] for n in (0, prefix, prefix + suffix))
        found.append({"prefix": content[begin:middle], "suffix": content[middle:end]})
    return {"test": datasets.Dataset.from_list(found)}


def figures(doc: dict, results: list) -> dict:
    """The metrics of one window; results: (log-likelihood, whether greedy decoding produces the suffix)."""
    log_p, greedy = results[0]
    return {"recall": float(greedy), "log_p": log_p, "extractable": float(log_p >= EXTRACTABLE)}
