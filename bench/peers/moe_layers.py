"""The model of configs/bench-1b.toml as a user of torch and flash-linear-attention would build it: moe_model.py.

Parameters are f32 and are rounded to RUN where they are used: a second set in bf16 with the f32 one behind it would
move as many bytes a step. A layer is compiled by itself. Attention keeps what a decode step needs where `keep` says so;
a step gets it back as `cache`, (state [rows, heads, head, head],) or (keys, values [rows, kv_heads, context, head]),
and writes it in place.
"""

from dataclasses import dataclass

import torch
from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla
from torch import nn
from torch.nn import functional

DEVICE = "cuda"
RUN = torch.bfloat16
HEAD_ROWS = 8192  # rows whose logits are there at once


@dataclass
class Shape:
    """configs/bench-1b.toml"""

    vocabulary: int = 32000
    width: int = 1024
    layers: int = 16
    softmax_every: int = 8
    heads: int = 8
    kv_heads: int = 2
    head: int = 128
    rotary: int = 64
    theta: float = 1e7
    inner: int = 1024
    experts: int = 16
    chosen: int = 2
    eps: float = 1e-5
    alpha: float = 32**0.25
    balance: float = 0.01


def matrix(*sizes):
    return nn.Parameter(0.02 * torch.randn(*sizes, device=DEVICE))


def ones(size):
    return nn.Parameter(torch.ones(size, device=DEVICE))


def product(x, w):
    return functional.linear(x, w.to(x.dtype))


def norm(x, gain, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain.float()).to(x.dtype)


@torch.compiler.disable
def recur_by_fla(q, k, v, decays, state):
    out, new = fused_recurrent_simple_gla(
        q, k, v, g_gamma=decays, scale=1.0, initial_state=state, output_final_state=True
    )
    state.copy_(new)
    return out


def recur_compiled(q, k, v, decays, state):
    """One row of each sequence: [rows, 1, heads, head]; the state [rows, heads, head, head] in place."""
    q, k, v = (part.squeeze(1).float() for part in (q, k, v))
    state.copy_(state * decays.exp()[:, None, None] + k.unsqueeze(-1) * v.unsqueeze(-2))
    return (q.unsqueeze(-1) * state).sum(-2).unsqueeze(1)


class Lightning(nn.Module):
    recur = staticmethod(recur_by_fla)

    def __init__(self, s, layer):
        super().__init__()
        size, self.s = s.heads * s.head, s
        self.qkv, self.gate, self.out = matrix(3 * size, s.width), matrix(size, s.width), matrix(s.width, size)
        self.gain = ones(size)
        factor = 1 - layer / (s.layers - 1) + 1e-5
        slopes = [2.0 ** (-8 * (head + 1) / s.heads) * factor for head in range(s.heads)]
        self.decays = -torch.tensor(slopes, device=DEVICE)

    def forward(self, a, cosines, sines, cache, keep):
        s, (rows, tokens, _) = self.s, a.shape
        parts = product(a, self.qkv).view(rows, tokens, s.heads, 3, s.head).unbind(3)
        q, k, v = (functional.silu(part).contiguous() for part in parts)
        if cache:
            state, o = cache[0], self.recur(q, k, v, self.decays, cache[0])
        else:
            o, state = chunk_simple_gla(q, k, v, g_gamma=self.decays, scale=1.0, output_final_state=keep)
        o = norm(o.view(rows, tokens, -1).to(a.dtype), self.gain, 1e-6)
        return product(o * torch.sigmoid(product(a, self.gate)), self.out), (state,)


def rotate(x, cosines, sines):
    """x [rows, heads, tokens, head], cosines and sines [tokens, rotary / 2]; the rest of a head passes."""
    half = cosines.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
    turned = first * cosines - second * sines, second * cosines + first * sines
    return torch.cat([part.to(x.dtype) for part in turned] + [rest], -1)


class Softmax(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        self.s = s
        self.q, self.out = matrix(s.heads * s.head, s.width), matrix(s.width, s.heads * s.head)
        self.k, self.v = (matrix(s.kv_heads * s.head, s.width) for _ in range(2))

    def forward(self, a, cosines, sines, cache, keep):
        rows, tokens, _ = a.shape
        q, k, v = (
            product(a, w).view(rows, tokens, -1, self.s.head).transpose(1, 2) for w in (self.q, self.k, self.v)
        )
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        if cache:
            cache[0][:, :, -1:], cache[1][:, :, -1:] = k, v
            k, v = cache
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=not cache, enable_gqa=True)
        return product(o.transpose(1, 2).reshape(rows, tokens, -1), self.out), (k, v) if keep else ()


class Taken(torch.autograd.Function):
    """x[index // copies]; back is the inverse of index, so that gradients are gathered too."""

    @staticmethod
    def forward(ctx, x, index, back, copies):
        ctx.save_for_backward(back)
        ctx.copies = copies
        return x[index // copies]

    @staticmethod
    def backward(ctx, d):
        (back,) = ctx.saved_tensors
        return d[back].view(-1, ctx.copies, d.shape[-1]).sum(1), None, None, None


class Experts(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, self.router = s, matrix(s.experts, s.width)
        self.gate_up, self.down = matrix(s.experts, 2 * s.inner, s.width), matrix(s.experts, s.width, s.inner)

    def forward(self, b):
        """The weighted sum of each token's experts, and the loss that keeps their loads even."""
        s, x = self.s, b.view(-1, b.shape[-1])
        shares = torch.softmax(product(x, self.router).float(), -1)
        weights, chosen = shares.topk(s.chosen, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        choices = chosen.flatten()
        counts = (choices.unsqueeze(1) == torch.arange(s.experts, device=x.device)).sum(0)
        order = choices.argsort(stable=True)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        ends = counts.cumsum(0).to(torch.int32)
        rows = Taken.apply(x, order, places, s.chosen)
        gate, up = grouped(rows, self.gate_up, ends).chunk(2, -1)
        rows = grouped(functional.silu(gate) * up, self.down, ends)
        sums = Taken.apply(rows, places, order, 1).view(-1, s.chosen, x.shape[-1]) * weights.unsqueeze(-1)
        balance = s.balance / s.experts * (counts / x.shape[0] * shares.mean(0)).sum()
        return sums.sum(1).to(b.dtype).view(b.shape), balance


def grouped(rows, w, ends):
    return functional.grouped_mm(rows, w.to(rows.dtype).transpose(1, 2), offs=ends)


class Layer(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        self.s, self.first, self.second = s, ones(s.width), ones(s.width)
        self.attention = (Softmax if (layer + 1) % s.softmax_every == 0 else Lightning)(s, layer)
        self.experts = Experts(s)

    def forward(self, x, cosines, sines, cache, keep):
        a = norm(x, self.first, self.s.eps)
        mixed, kept = self.attention(a, cosines, sines, cache, keep)
        b = norm(self.s.alpha * a + mixed, self.second, self.s.eps)
        y, balance = self.experts(b)
        return self.s.alpha * b + y, balance, kept


def head_loss(x, head, targets):
    """Sum of the losses of rows of x; pieces of rows, none of which is computed again in the backward pass."""
    pieces = zip(x.split(HEAD_ROWS), targets.split(HEAD_ROWS))
    return sum(functional.cross_entropy(product(a, head).float(), b, reduction="sum") for a, b in pieces)


class Model(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, self.embedding, self.head = s, matrix(s.vocabulary, s.width), matrix(s.vocabulary, s.width)
        self.layers, self.gain = nn.ModuleList(Layer(s, layer) for layer in range(s.layers)), ones(s.width)
        self.head_loss = head_loss

    def compile(self, **options):
        for layer in self.layers:
            layer.compile(dynamic=False, **options)
        self.head_loss = torch.compile(head_loss, dynamic=False, **options)

    def angles(self, first, count):
        axis = lambda *range_: torch.arange(*range_, device=DEVICE, dtype=torch.float64)
        angles = axis(first, first + count)[:, None] * self.s.theta ** (-axis(0, self.s.rotary, 2) / self.s.rotary)
        return angles.cos().float(), angles.sin().float()

    def forward(self, tokens, angles, caches=None, keep=False):
        """The rows before the last norm, the balance loss, a cache of each layer; caches: those of a decode step."""
        x, total, kept = functional.embedding(tokens, self.embedding).to(RUN), 0, []
        for index, layer in enumerate(self.layers):
            x, balance, of_layer = layer(x, *angles, caches[index] if caches else (), keep)
            total = total + balance
            kept.append(of_layer)
        return x, total, kept

    def loss(self, tokens, targets, angles):
        x, balance, _ = self(tokens, angles)
        x = norm(x, self.gain, self.s.eps).view(-1, self.s.width)
        return self.head_loss(x, self.head, targets.flatten()) / targets.numel() + balance

    def last_logits(self, tokens, angles, caches=None):
        """Logits of the last rows, and the caches: a step's own, or those of a prefill."""
        x, _, kept = self(tokens, angles, caches, keep=not caches)
        return product(norm(x[:, -1], self.gain, self.s.eps), self.head).float(), caches or kept
