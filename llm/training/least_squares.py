"""Weighted least squares with a ridge: the sums that they are solved from, and the solution."""

import torch

GRAM_PARTS = 4  # in which the matrix is summed: its upper triangle costs nothing


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a' b to the lower triangle of total (F, F) in place, for a product that is symmetric; a, b (N, F)."""
    size = -(-len(total) // GRAM_PARTS)
    for start in range(0, len(total), size):
        rows = slice(start, start + size)
        total[rows, : rows.stop] += (a[:, rows].T @ b[:, : rows.stop]).float()


def solution(gram: torch.Tensor, rhs: torch.Tensor, ridge: float) -> torch.Tensor:
    """D (F, C) of (gram + ridge * mean of its diagonal) D = rhs, both float64; gram (F, F) is changed.

    The sums of a short text are rounded more than they are regular: then the ridge becomes larger. torch's LinAlgError
    if even a ridge as large as the mean does not help, as with numbers that are not finite.
    """
    size = float(gram.diagonal().mean())
    while True:
        gram.diagonal().add_(ridge * size)
        factor, failed = torch.linalg.cholesky_ex(gram, check_errors=not 0 < ridge * size < size)
        if not failed:
            return torch.cholesky_solve(rhs, factor)
        ridge *= 3
