"""torch's scaled dot product attention, causal, 8 heads on 2 KV heads of 128."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from timing import median_seconds, sets_for

HEADS, KV_HEADS, HEAD = 8, 2, 128
LENGTHS = [2048, 4096, 8192, 16384, 65536]


def operands(rows, gradients):
    """[1, heads, rows, head] views of rows of heads."""
    make = lambda heads: torch.randn(1, rows, heads, HEAD, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    return [make(heads).requires_grad_(gradients) for heads in (HEADS, KV_HEADS, KV_HEADS)]


def attend(parts):
    return scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)


def forward(backend, rows):
    sets = [operands(rows, False) for _ in range(sets_for(2 * rows * (HEADS + KV_HEADS) * HEAD * 2))]
    with torch.no_grad(), sdpa_kernel(backend):
        return median_seconds([lambda parts=parts: attend(parts) for parts in sets])


def backward(backend, rows):
    calls = []
    with sdpa_kernel(backend):
        for _ in range(sets_for(4 * rows * (HEADS + KV_HEADS) * HEAD * 2)):
            parts = operands(rows, True)
            out = attend(parts)
            flow = torch.randn_like(out)
            calls.append(
                lambda out=out, parts=parts, flow=flow: torch.autograd.grad(out, parts, flow, retain_graph=True)
            )
        return median_seconds(calls)


def decode(backend, sequences, context):
    """One row of each sequence, its keys end to end rather than in pages."""
    make = lambda heads, rows: torch.randn(sequences, heads, rows, HEAD, device="cuda", dtype=torch.bfloat16)
    bytes_of_one = 2 * sequences * context * KV_HEADS * HEAD * 2
    sets = [
        (make(HEADS, 1), make(KV_HEADS, context), make(KV_HEADS, context)) for _ in range(sets_for(bytes_of_one))
    ]
    with torch.no_grad(), sdpa_kernel(backend):
        return median_seconds(
            [lambda parts=parts: scaled_dot_product_attention(*parts, enable_gqa=True) for parts in sets]
        )


def cases():
    """(name of cuda_bench's line, peer, function that times it)"""
    for backend, peer in ((SDPBackend.CUDNN_ATTENTION, "cuDNN"), (SDPBackend.FLASH_ATTENTION, "flash")):
        for rows in LENGTHS:
            label = f"torch's attention by {peer}"
            yield f"softmax_attention {rows}", label, lambda b=backend, r=rows: forward(b, r)
            yield f"softmax_attention_backward {rows}", label, lambda b=backend, r=rows: backward(b, r)
        for sequences in (1, 8, 64):
            for context in (8192, 65536):
                name = f"softmax_attention decode {sequences} x {context}"
                yield name, label, lambda b=backend, s=sequences, c=context: decode(b, s, c)
