"""Drive a running server with lm-evaluation-harness: log-likelihoods of continuations, and text until a stop string.

    python tests/clients/lm_eval_client.py http://127.0.0.1:8000 EXPORTED_FOLDER BLOCK_SIZE

EXPORTED_FOLDER: that export.py wrote, for its tokenizer. Prints one JSON object of what the harness got.
"""

import importlib.metadata
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import openai
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

PAIRS = [
    ("The echo had been", " ill"),
    ("The echo had been ill", " and the wall stood"),
    ("", "The echo"),
    ("A wall", " the"),
]


def ask(model, kind: str, arguments: list[tuple]) -> list:
    """What the harness gets for a list of requests of one kind."""
    instances = [Instance(request_type=kind, doc={}, arguments=a, idx=n) for n, a in enumerate(arguments)]
    return getattr(model, kind)(instances)


def main(url: str, folder: str, block_size: str) -> None:
    name = openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list().data[0].id
    found = {"lm_eval": importlib.metadata.version("lm_eval"), "pairs": PAIRS}
    for batch_size, num_concurrent in ((1, 1), (4, 1), (1, 4)):
        model = get_model("local-completions")(
            model=name,
            base_url=f"{url}/v1/completions",
            tokenizer=folder,
            tokenizer_backend="huggingface",
            max_length=int(block_size),
            batch_size=batch_size,
            num_concurrent=num_concurrent,
            max_retries=1,
        )
        results = {
            "loglikelihood": ask(model, "loglikelihood", PAIRS),
            "rolling": ask(model, "loglikelihood_rolling", [("The echo had been ill " * 30,)]),
            "until": ask(model, "generate_until", [("The echo had been", {"until": ["the", "."], "max_gen_toks": 20})]),
        }
        assert found.setdefault("results", results) == results, (found["results"], results)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
