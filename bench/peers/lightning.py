"""flash-linear-attention on lightning attention's shapes: simple GLA with one fixed decay a head."""

import torch
import torch.nn.functional as functional
from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

from timing import median_seconds, sets_for

HEAD = 128


def log_decays(heads):
    """-slope of each head: layer 40 of 80 for 64 heads, layer 8 of 16 for 8 (spec/model.md 2.1)."""
    layer, layers = (40, 80) if heads == 64 else (8, 16)
    factor = 1 - layer / (layers - 1) + 1e-5
    return torch.tensor([-(2.0 ** (-8 * (head + 1) / heads)) * factor for head in range(heads)], device="cuda")


def operands(tokens, heads, gradients):
    make = lambda: torch.randn(1, tokens, heads, HEAD, device="cuda", dtype=torch.bfloat16, requires_grad=gradients)
    return make(), make(), make()


def attend(parts, decays, silu, borders):
    q, k, v = (functional.silu(part) for part in parts) if silu else parts
    return chunk_simple_gla(
        q, k, v, g_gamma=decays, scale=1.0, cu_seqlens=borders, output_final_state=borders is not None
    )[0]


def forward(sequences, rows, heads, silu):
    tokens = sequences * rows
    borders = torch.arange(0, tokens + 1, rows, device="cuda") if sequences > 1 else None
    decays = log_decays(heads)
    sets = [operands(tokens, heads, False) for _ in range(sets_for(4 * tokens * heads * HEAD * 2))]
    with torch.no_grad():
        return median_seconds([lambda parts=parts: attend(parts, decays, silu, borders) for parts in sets])


def backward(sequences, rows, heads, silu):
    tokens = sequences * rows
    borders = torch.arange(0, tokens + 1, rows, device="cuda") if sequences > 1 else None
    decays = log_decays(heads)
    calls = []
    for _ in range(sets_for(16 * tokens * heads * HEAD * 2)):
        parts = operands(tokens, heads, True)
        out = attend(parts, decays, silu, borders)
        flow = torch.randn_like(out)
        calls.append(
            lambda out=out, parts=parts, flow=flow: torch.autograd.grad(out, parts, flow, retain_graph=True)
        )
    return median_seconds(calls)


def decode(sequences, heads):
    decays = log_decays(heads)
    calls = []
    for _ in range(sets_for(2 * sequences * heads * HEAD * HEAD * 4)):
        q, k, v = (torch.randn(sequences, 1, heads, HEAD, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        state = torch.randn(sequences, heads, HEAD, HEAD, device="cuda")
        calls.append(
            lambda q=q, k=k, v=v, state=state: fused_recurrent_simple_gla(
                q, k, v, g_gamma=decays, scale=1.0, initial_state=state, output_final_state=True
            )
        )
    with torch.no_grad():
        return median_seconds(calls)


SHAPES = [(1, 8192, 64), (1, 32768, 64), (1, 131072, 8), (1, 1048576, 8), (16, 2048, 64)]


def cases():
    """(name of cuda_bench's line, peer, function that times it)"""
    peer = "flash-linear-attention"
    for sequences, rows, heads in SHAPES:
        shape = f"{sequences} x {rows} x {heads}"
        ending = ", states out" if sequences > 1 else ""
        for silu in (False, True):
            label = peer + (", SiLU in torch" if silu else ", no SiLU")
            arguments = (sequences, rows, heads, silu)
            yield f"lightning_attention {shape}{ending}", label, lambda a=arguments: forward(*a)
            yield f"lightning_attention_backward {shape}", label, lambda a=arguments: backward(*a)
    for sequences in (1, 8, 64, 256):
        yield f"lightning_attention decode {sequences} x 64", f"{peer}, no SiLU", lambda s=sequences: decode(s, 64)
