"""torch.compile for the training step, where it works."""

import torch

from llm.runtime import Runtime, notice


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
