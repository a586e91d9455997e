"""The clients that people have work with the server: openai, langchain-openai, lm-evaluation-harness, curl.

Each client is a script that can be run by hand. LLM_CLIENTS_PYTHON names a Python that has their packages, if this one
has not; a client whose package is missing is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm.reading.generate import allowed_ids
from llm.serving.logprobs import UNDRAWABLE
from llm.storage import pretrained
from llm.text import tokenizer

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PYTHON = os.environ.get("LLM_CLIENTS_PYTHON", sys.executable)
KEY = "sésame ouvre-toi"


def run_client(command: list) -> str:
    """What a client prints; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def needs(module: str) -> None:
    """Skip the test unless PYTHON has this module."""
    if subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, cwd="/").returncode:
        pytest.skip(f"{PYTHON} has no {module}")


@pytest.fixture(scope="module")
def url(start_server):
    return f"http://127.0.0.1:{start_server()[1]}"


@pytest.mark.parametrize("module, script", [("openai", "openai_client"), ("langchain_openai", "langchain_client")])
def test_a_python_client_works(url, module, script):
    needs(module)
    assert run_client([PYTHON, HERE / f"{script}.py", url]).endswith(": ok\n")


def test_openais_client_works_with_a_key(start_server):
    needs("openai")
    port = start_server(LLM_API_KEY="open sesame")[1]
    run_client([PYTHON, HERE / "openai_client.py", f"http://127.0.0.1:{port}", "open sesame"])


@pytest.mark.parametrize("key", ["", KEY], ids=["", "with a key"])
def test_curl_works(start_server, key):
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    port = start_server(LLM_API_KEY=key)[1]
    assert run_client(["sh", HERE / "curl_client.sh", f"http://127.0.0.1:{port}", key or "none"]).endswith(": ok\n")


def test_lm_evaluation_harness_gets_the_models_log_likelihoods(url, run, served, tmp_path):
    needs("lm_eval, aiohttp, tenacity, transformers")
    run("export.py", f"--out_dir={served / 'out'}", f"--to={tmp_path / 'hf'}")
    found = json.loads(run_client([PYTHON, HERE / "lm_eval_client.py", url, tmp_path / "hf", "64"]).splitlines()[-1])
    model, encoder, info = pretrained.load_model(str(served / "out"))
    allowed = allowed_ids(info.corpus_ids, encoder.vocab_size)
    for (context, continuation), (logprob, is_greedy) in zip(
        found["pairs"], found["results"]["loglikelihood"], strict=True
    ):
        before = encoder.encode(context) or [tokenizer.END_OF_TEXT]
        ids = before + encoder.encode(continuation)
        expected, greedy = 0.0, True
        with torch.no_grad():
            for n in range(len(before), len(ids)):
                logits = model(torch.tensor([ids[:n]]))[0][0, -1]
                drawable = ids[n] in info.corpus_ids
                expected += float(logits[ids[n]] - logits[allowed].logsumexp(0)) if drawable else UNDRAWABLE
                greedy = greedy and int(allowed[logits[allowed].argmax()]) == ids[n]
        assert logprob == pytest.approx(expected, abs=1e-3) and is_greedy == greedy, (context, continuation)
    assert found["results"]["until"][0] and "the" not in found["results"]["until"][0]
