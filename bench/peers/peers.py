"""Times other libraries on the shapes of cuda_bench, whose table then shows them beside ours.

usage: python3 peers.py OUT.json [PART...]     PART: a part of the names of lines to time; none: all

Needs torch; flash-linear-attention where it can be imported. A peer that is missing or refuses a shape is one line of
"refused"; OUT.json is complete after every time. Figures of libraries that were not run are marked "quoted".
"""

import datetime
import json
import sys

import torch

from timing import median_seconds

# Published or measured elsewhere, seconds. cuLA: its CuTe kernel on an H100 80GB, SiLU not included, decode in a graph.
QUOTED = {
    "cuLA (inclusionAI/cuLA fa742a2, H100), no SiLU": {
        "lightning_attention 1 x 8192 x 64": 266e-6,
        "lightning_attention 1 x 32768 x 64": 1.04e-3,
        "lightning_attention 16 x 2048 x 64, states out": 775e-6,
        "lightning_attention 1 x 131072 x 8": 4.04e-3,
        "lightning_attention 1 x 1048576 x 8": 31.6e-3,
        "lightning_attention decode 1 x 64": 5.4e-6,
        "lightning_attention decode 8 x 64": 25.7e-6,
        "lightning_attention decode 64 x 64": 186e-6,
        "lightning_attention decode 256 x 64": 733e-6,
    },
}


def rates():
    """Bytes per second of torch's copy, read and written bytes counted, and FLOP/s of a bf16 product of 8192s."""
    count, size = 1 << 29, 8192
    a, b = torch.randn(count, device="cuda"), torch.empty(count, device="cuda")
    copy = 8 * count / median_seconds([lambda: b.copy_(a)])
    del a, b
    x, y = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {"copy_bytes_per_second": copy, "matrix_flop_per_second": 2 * size**3 / median_seconds([lambda: x @ y])}


def cases():
    import products
    import softmax

    yield from products.cases()
    yield from softmax.cases()
    try:
        import lightning
    except ImportError as error:
        print(f"flash-linear-attention: {error}", file=sys.stderr)
        return
    yield from lightning.cases()


def main():
    path, parts = sys.argv[1], sys.argv[2:] or [""]
    document = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "rates": rates(),
        "times": [
            {"name": name, "peer": peer, "seconds": seconds, "quoted": True}
            for peer, times in QUOTED.items()
            for name, seconds in times.items()
        ],
        "refused": [],
    }
    for name, peer, run in cases():
        if not any(part in name for part in parts):
            continue
        try:
            document["times"].append({"name": name, "peer": peer, "seconds": run()})
            print(f"{document['times'][-1]['seconds'] * 1e6:12.2f} us  {name}  {peer}", flush=True)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            document["refused"].append({"name": name, "peer": peer, "error": str(error)[:200]})
            print(f"refused: {name} {peer}: {str(error)[:100]}", flush=True)
        torch.cuda.empty_cache()
        with open(path, "w") as file:
            json.dump(document, file, indent=1)


if __name__ == "__main__":
    with torch.cuda.stream(torch.cuda.Stream()):  # graphs are captured on it, gradients run on their forward's stream
        main()
