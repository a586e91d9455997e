"""Nested plain data with tensors: its checksum, its size in a file."""

import hashlib

import torch


def digest(part) -> str:
    """sha256 of nested plain data; of tensors the dtype, shape and bytes."""
    sha = hashlib.sha256()

    def feed(x):
        if isinstance(x, torch.Tensor):
            sha.update(f"{x.dtype}{tuple(x.shape)}".encode())
            sha.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(x, dict):
            sha.update(b"{%d" % len(x))
            for key, value in x.items():
                feed(key)
                feed(value)
        elif isinstance(x, list | tuple):
            sha.update(b"[%d" % len(x))
            for value in x:
                feed(value)
        else:
            sha.update(repr(x).encode() + b"\0")

    feed(part)
    return sha.hexdigest()


def size_of(part) -> int:
    """Approximate size of nested plain data in a file, in bytes: each tensor storage once."""
    sizes, todo = {}, [part]
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        elif isinstance(x, dict | list | tuple):
            todo += x.values() if isinstance(x, dict) else x
    return sum(sizes.values())
