"""bench-1b, whole, as a user of torch and flash-linear-attention would build it: training, prefill and decode.

usage: python3 moe_model.py [train] [prefill] [decode] [--json OUT] [--rows 8] [--context 80] [--attention cudnn|flash]
                            [--autotune]     none of the three: all of them

Layers are compiled one by one, AdamW is fused, experts are grouped products over rows sorted on the device, no row is
dropped, nothing is computed twice in a backward pass. Kernels are not chosen silently: attention has one backend, a
function that is compiled too often is an error, and the kernels of a step are listed with times. Before the times: the
number of parameters; the loss falls over 20 steps on one batch; a decode step gives a prefill's logits.
"""

import argparse
import datetime
import json
import statistics

import torch
from fla import __version__ as fla_version
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import moe_layers
from moe_layers import DEVICE, RUN, Lightning, Model, Shape

WHAT = ["train", "prefill", "decode"]  # in this order: the last two round the parameters
STEP_TOKENS, SEQUENCE = 32768, 4096


def between(run):
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3


def kernels(run, most=16):
    """The kernels of one run by their time: [[ms, calls, name]]."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    rows = [[e.self_device_time_total / 1e3, e.count, e.key[:90]] for e in profile.key_averages()]
    rows = sorted((row for row in rows if row[0] > 0), reverse=True)[:most]
    for milliseconds, count, name in rows:
        print(f"  {milliseconds:9.3f} ms {count:5} x {name}")
    return rows


def draw(model, *sizes):
    return torch.randint(model.s.vocabulary, sizes, device=DEVICE)


def train(model, arguments):
    rows = arguments.rows
    angles, sequences = model.angles(0, SEQUENCE), STEP_TOKENS // SEQUENCE
    settings = {"lr": 2e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(model.parameters(), **settings, fused=True)
    tokens = draw(model, sequences, SEQUENCE + 1)

    def step():
        total = 0
        for part in tokens.split(rows):
            loss = model.loss(part[:, :-1], part[:, 1:], angles) * (part.shape[0] / sequences)
            loss.backward()
            total = total + loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    losses = [step().item() for _ in range(20)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in 20 steps on one batch")
    if not losses[-1] < losses[0] - 0.1:
        raise RuntimeError(f"the loss does not fall: {losses}")
    seconds = statistics.median(between(step) for _ in range(10))
    extra = {"losses": losses, "peak_bytes": torch.cuda.max_memory_allocated()}
    yield f"training, {rows} x {SEQUENCE}", STEP_TOKENS, seconds, extra | {"kernels": kernels(step)}


def prefill(model, arguments):
    for tokens in (8192, 65536, 262144):
        prompt, angles = draw(model, 1, tokens), model.angles(0, tokens)
        run = lambda prompt=prompt, angles=angles: model.last_logits(prompt, angles)
        run(), run()
        seconds = statistics.median(between(run) for _ in range(5))
        yield f"prefill, {tokens}", tokens, seconds, {"kernels": kernels(run)}


def room(cache):
    """A layer's cache of a prefill with place for one row more."""
    return tuple(functional.pad(part, (0, 0, 0, 1)) for part in cache) if len(cache) == 2 else cache


def decode_step(model, rows, context):
    """A step of `rows` sequences that writes row context - 1 and takes the likeliest tokens; checked by a prefill."""
    prompt = draw(model, rows, context)
    with torch.compiler.set_stance("force_eager"):
        _, caches = model.last_logits(prompt[:, :-1], model.angles(0, context - 1))
        expected, _ = model.last_logits(prompt, model.angles(0, context))
    caches = [room(cache) for cache in caches]
    tokens, angles = prompt[:, -1:].clone(), model.angles(context - 1, 1)

    def step():
        logits, _ = model.last_logits(tokens, angles, caches)
        tokens.copy_(logits.argmax(-1, keepdim=True))
        return logits

    error = ((step() - expected).norm() / expected.norm()).item()
    if not error < 0.1:
        raise RuntimeError(f"a decode step's logits differ from a prefill's by {error:.3f} of their norm")
    return step, error


def decode(model, arguments):
    for rows in (1, 32, 128):
        for name, recur in (("fla", moe_layers.recur_by_fla), ("compiled", moe_layers.recur_compiled)):
            Lightning.recur = staticmethod(recur)
            step, error = decode_step(model, rows, arguments.context)
            graph, count = torch.cuda.CUDAGraph(), 50
            step()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                step()
            graph.replay()
            run = lambda graph=graph: [graph.replay() for _ in range(count)]
            seconds = statistics.median(between(run) for _ in range(7)) / count
            extra = {"error": error, "kernels": kernels(graph.replay)}
            yield f"decode, {rows} sequences at {arguments.context}, states by {name}", rows, seconds, extra


def checked_model(shape, million):
    """A model that has the number of parameters it should have."""
    model = Model(shape)
    count = sum(parameter.numel() for parameter in model.parameters())
    if round(count / 1e6) != million:
        raise RuntimeError(f"expected {million} M parameters, found {count}")
    return model, count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", metavar="|".join(WHAT))
    parser.add_argument("--json", default="")
    parser.add_argument("--rows", type=int, default=8, help="sequences of a micro batch")
    parser.add_argument("--context", type=int, default=80, help="keys that a decode step reads")
    parser.add_argument("--attention", choices=["cudnn", "flash"], default="cudnn")
    parser.add_argument("--autotune", action="store_true", help="torch.compile tries its own matrix products")
    arguments = parser.parse_args()
    if set(arguments.what) - set(WHAT):
        parser.error(f"expected of {WHAT}, found {arguments.what}")
    torch._dynamo.config.recompile_limit = 16
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch.manual_seed(1)
    model, count = checked_model(Shape(), 950)
    model.compile(**({"mode": "max-autotune-no-cudagraphs"} if arguments.autotune else {}))
    document = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "fla": fla_version}
    document |= {"date": datetime.date.today().isoformat(), "options": vars(arguments)}
    document |= {"parameters": count, "times": []}
    backend = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}[arguments.attention]
    for what in [name for name in WHAT if name in (arguments.what or WHAT)]:
        if what != "train":
            for parameter in model.parameters():
                parameter.data, parameter.grad = parameter.data.to(RUN), None
            model.requires_grad_(False)
        with sdpa_kernel(backend), torch.set_grad_enabled(what == "train"):
            for name, tokens, seconds, extra in globals()[what](model, arguments):
                print(f"{name}: {seconds * 1e3:.3f} ms, {tokens / seconds:,.0f} tokens/s", flush=True)
                peer = f"torch {torch.__version__}, flash-linear-attention"
                line = {"name": f"bench-1b {name}", "peer": peer, "seconds": seconds}
                document["times"].append(line | {"tokens_per_second": tokens / seconds} | extra)
                if arguments.json:
                    with open(arguments.json, "w") as file:
                        json.dump(document, file, indent=1)


if __name__ == "__main__":
    with torch.cuda.stream(torch.cuda.Stream()):
        main()
