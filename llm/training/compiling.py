"""torch.compile for the training step, where it works."""

import torch

from llm.runtime import Runtime, notice

# FLOPs of a forward and backward pass below which a GPU computes faster than its kernels are launched one by one.
# Measured on an H100: 0.3e12 take 14.7 ms, with CUDA graphs 6.6 (BENCHMARKS.md, "GPU").
LAUNCH_BOUND = 2e12


def compile_mode(model: torch.nn.Module, n_tokens: int, rt: Runtime) -> str:
    """torch.compile's mode for steps of n_tokens: with CUDA graphs where launches would take longer than the work."""
    flops = 6 * n_tokens * sum(p.numel() for p in model.parameters())
    graphs = rt.device.type == "cuda" and rt.world_size == 1 and flops < LAUNCH_BOUND
    return "reduce-overhead" if graphs else "default"


def compiled_or_eager(
    model: torch.nn.Module, idx: torch.Tensor, position_weights: torch.Tensor | None, rt: Runtime, mode: str = "default"
) -> torch.nn.Module:
    """The compiled model if a first step with idx (B, T) works, else the model itself, with one warning.

    mode: of torch.compile; "reduce-overhead" launches forward and backward pass as CUDA graphs.
    """
    try:
        compiled = torch.compile(model, mode=mode)
        with rt.autocast():
            compiled(idx, idx, position_weights=position_weights)[1].backward()
        return compiled
    except Exception as e:  # the compiler's errors have no common base class; eager mode works in any case
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        notice(f"torch.compile does not work here, going on without it ({reason}); --compile=False skips it")
        return model
    finally:
        model.zero_grad(set_to_none=True)
