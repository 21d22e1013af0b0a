"""Converts checkpoints to transformers' own family and back: the files must return, and transformers' class must give
our logits.

usage: minimax_transformers.py FULGUR MODEL...     MODEL: a folder with released names (model_type minimax_text_01)

Needs torch and transformers 5, so it is run by hand: tests/convert_test.cpp holds what was found here, without them.
What `convert` refuses is printed, and is no failure. Errors are relative: the largest difference over the largest logit.
"""

import filecmp
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

BOUND = 2e-5
TOKENS = 600


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True)


def must(*arguments):
    done = run(*arguments)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")


def require_equal_files(a, b):
    names = sorted(p.name for p in a.iterdir())
    if names != sorted(p.name for p in b.iterdir()):
        sys.exit(f"{a} and {b} hold other files")
    different = [n for n in names if not filecmp.cmp(a / n, b / n, shallow=False)]
    if different:
        sys.exit(f"{a} and {b} differ in {different}")
    return len(names)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def our_logits(program, model, ids, scratch):
    file = scratch / "logits.safetensors"
    must(program, "logits", model, "--ids", ",".join(map(str, ids)), "--out", file, "--device", "cpu", "--dtype", "f32")
    return load_file(file)["logits"]


def their_logits(model, ids):
    network = transformers.MiniMaxForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return network(torch.tensor([ids]), use_cache=False).logits[0]


def check(program, model, scratch):
    there, back, own = scratch / "there", scratch / "back", scratch / "own"
    converted = run(program, "convert", model, there, "--format", "minimax")
    if converted.returncode == 2:
        print(f"{model.name}: refused: {converted.stderr.strip()}")
        return True
    if converted.returncode != 0:
        sys.exit(converted.stderr)
    must(program, "convert", there, back, "--format", "minimax_text_01")
    must(program, "convert", model, own)  # the same under the header that this program writes
    files = require_equal_files(own, back)
    if not filecmp.cmp(model / "config.json", back / "config.json", shallow=False):
        sys.exit(f"{model.name}: config.json does not come back")

    config = transformers.AutoConfig.from_pretrained(there)
    ids = [(7 * i + i * i // 3) % config.vocab_size for i in range(TOKENS)]
    ours = our_logits(program, model, ids, scratch)
    error = relative(their_logits(there, ids), ours)
    across = relative(our_logits(program, there, ids, scratch), ours)
    print(f"{model.name}: {files} files back as they were; rope_parameters {config.rope_parameters}; "
          f"transformers differs by {error:.1e}, fulgur on the converted by {across:.1e}")
    return error <= BOUND and across <= BOUND


def main():
    program, *models = sys.argv[1:]
    if not models:
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; bound {BOUND}")
    good = True
    for model in map(pathlib.Path, models):
        with tempfile.TemporaryDirectory() as folder:
            good = check(pathlib.Path(program).resolve(), model, pathlib.Path(folder)) and good
    sys.exit(0 if good else 1)


main()
