"""Ways of sampling that bench.py compares: ours, nanoGPT's without a cache, and Hugging Face's generate.

A sampler is a function draw(n_tokens, n_samples) that continues one prompt. All draw from the same weights: those of a
learned model, or random ones. Hugging Face's model cannot go beyond its context. Needs transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llm.model import GPT, GPTConfig
from llm.reading.generate import Sampling, allowed_ids, generate
from llm.reading.load import find_book_ids
from llm.reading.reader import Reader
from llm.storage import checkpoint, huggingface
from llm.storage.pretrained import load_model
from llm.storage.progress import Progress
from llm.text.tokenizer import GPT2_DESCRIPTION

BOOK_TOKENS = 3841  # different tokens that a book uses
PROMPT_IDS = [464, 3329, 318, 2258, 287, 262, 2603, 13]

Sampler = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """What is sampled from."""

    model: GPT
    allowed: torch.Tensor  # ids that may be drawn
    prompt_ids: list[int]
    book_ids: np.ndarray | None  # the book to draft from; None = not at hand

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of the weights that each new token is multiplied with: the blocks', and the head's allowed rows."""
        shape = self.model.config
        return (12 * shape.n_layer * shape.n_embd**2 + len(self.allowed) * shape.n_embd) * dtype.itemsize


def subject_of(shape: GPTConfig, out_dir: str | None) -> Subject:
    """The model in out_dir and a prompt from the middle of its book; without out_dir, random weights of this shape."""
    if out_dir is None:
        torch.manual_seed(0)
        return Subject(GPT(shape).eval(), torch.arange(BOOK_TOKENS), PROMPT_IDS, None)
    model, tokenizer, info = load_model(out_dir)
    book_ids, _ = find_book_ids(info.dataset, info.text_sha256)
    prompt_ids = PROMPT_IDS if book_ids is None else book_ids[len(book_ids) // 2 :][: len(PROMPT_IDS)].tolist()
    return Subject(model, allowed_ids(info.corpus_ids, tokenizer.vocab_size), prompt_ids, book_ids)


def save_subject(subject: Subject, folder: Path) -> None:
    """Write a checkpoint as train.py does, for GPT-2's tokens."""
    content = checkpoint.pack(
        model=subject.model,
        optimizers=[],
        progress=Progress(),
        config={"dataset": "none"},
        tokenizer_description=GPT2_DESCRIPTION,
        corpus_ids=subject.allowed.tolist(),
    )
    checkpoint.write(folder / "ckpt.pt", content)


def our_sampler(
    subject: Subject, sampling: Sampling, dtype: torch.dtype, *, drafts: bool, graphs: bool = True
) -> Sampler:
    """As sample.py draws. drafts: from the book, as it does if it has the book; graphs: see Reader."""
    book_ids = subject.book_ids if drafts else None
    reader = Reader(subject.model, subject.allowed, dtype, book_ids=book_ids, graphs=graphs)

    def draw(n_tokens: int, n_samples: int) -> None:
        options = dict(max_new_tokens=n_tokens, sampling=sampling, numbers=range(n_samples))
        for _ in generate(reader, subject.prompt_ids, **options):
            pass

    return draw


def uncached_sampler(subject: Subject, sampling: Sampling, device: torch.device) -> Sampler:
    """As nanoGPT draws: the whole context is computed anew for each token, in float32."""
    model = subject.model

    @torch.no_grad()
    def draw(n_tokens: int, n_samples: int) -> None:
        idx = torch.tensor([subject.prompt_ids] * n_samples, device=device)
        for _ in range(n_tokens):
            logits = model(idx[:, -model.config.block_size :])[0][:, -1] / sampling.temperature
            logits[logits < logits.topk(sampling.top_k)[0][:, -1:]] = -torch.inf
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)

    return draw


def hugging_face_sampler(shape: GPTConfig, out_dir: str | None, sampling: Sampling, device: torch.device) -> Sampler:
    """As GPT2LMHeadModel.generate draws with its cache, in float32. shape, out_dir: see subject_of."""
    subject = subject_of(shape, out_dir)
    model = with_our_weights(subject.model).to(device)
    idx = torch.tensor([subject.prompt_ids], device=device)
    options = dict(do_sample=True, temperature=sampling.temperature, top_k=sampling.top_k, pad_token_id=0)
    options |= dict(eos_token_id=None, attention_mask=torch.ones_like(idx))

    def draw(n_tokens: int, n_samples: int) -> None:
        lengths = dict(max_new_tokens=n_tokens, min_new_tokens=n_tokens, num_return_sequences=n_samples)
        model.generate(idx, **options, **lengths)

    return draw


def hugging_face_model(shape: GPTConfig):
    """A GPT2LMHeadModel of this shape with random weights."""
    import transformers  # takes seconds, and only bench.py's other process needs it

    transformers.logging.set_verbosity_error()
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**huggingface.config_json(shape, None)))


def with_our_weights(model: GPT):
    """A GPT2LMHeadModel with the weights of our model, in evaluation mode."""
    theirs = hugging_face_model(model.config).eval()
    weights = huggingface.stored_weights(model)
    theirs.transformer.load_state_dict({name.removeprefix("transformer."): w for name, w in weights.items()})
    return theirs
