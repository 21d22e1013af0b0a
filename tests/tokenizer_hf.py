"""Hugging Face's tokenizers must give fulgur's ids: with a vocabulary that fulgur trains, and line by line with the
published ones.

usage: tokenizer_hf.py FULGUR SHARED TEXT...   SHARED: the folder with published vocabularies and texts
Exit 77 (skipped) where the tokenizers package is missing, or SHARED at the end.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    from tokenizers import Tokenizer
except ImportError:
    print("skipped: the Python package tokenizers is not installed")
    sys.exit(77)

from published_tokenizers import NAMES, hugging_face, text_of, unpack

TEXT_BYTES = 10_000_000  # compared with each published vocabulary
BLOCKS = [(0x20, 0x7E), (0x20, 0x7E), (0x09, 0x0D), (0x1C, 0x20), (0x80, 0x24F), (0x250, 0x36F), (0x370, 0x5FF),
          (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x20CF),
          (0x2150, 0x218F), (0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0xF900, 0xFB4F), (0x1D400, 0x1D7FF),
          (0x1F300, 0x1F64F)]
SNIPPETS = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'d", "'\u017f", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000",
            "/", "/\n", "a", "A", "\u01c5", "\u02b0", "\u0301", "\u4e2d", "1", "12", "123", "\u00bd", "_", "<", "<pad>"]


def random_text(rng):
    parts = []
    for _ in range(rng.randrange(1, 60)):
        if rng.random() < 0.5:
            parts.append(rng.choice(SNIPPETS))
        else:
            first, last = rng.choice(BLOCKS)
            parts.append("".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 6))))
    return "".join(parts)


def run(*arguments):
    return subprocess.run(arguments, check=True, capture_output=True).stdout


def check(program, model, texts, reference, special):
    """All texts in one file, since each by itself would start the program anew."""
    reference.encode_special_tokens = not special
    separator = "\n\x00\n"
    joined = separator.join(texts)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write(joined)
        file.flush()
        flags = ["--special"] if special else []
        ids = json.loads(run(program, "tokenize", model, "--file", file.name, "--json", *flags))["ids"]
    expected = reference.encode(joined, add_special_tokens=False).ids
    if ids == expected:
        return len(ids)
    at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
    print(f"token {at} differs after {reference.decode(expected[max(0, at - 8):at])!r}: "
          f"fulgur {ids[at:at + 8]}, tokenizers {expected[at:at + 8]} "
          f"{[reference.id_to_token(i) for i in expected[at:at + 8]]}")
    sys.exit(1)


def check_trained(program, files):
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(20000)]
    for file in files:
        texts.append(pathlib.Path(file).read_bytes()[:1_000_000].decode("utf-8", "ignore"))
    texts.append("a" * 100_000)
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder, "corpus.txt")
        corpus.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8", newline="")
        model = str(pathlib.Path(folder, "model"))
        run(program, "tokenizer", "train", "--vocab-size", "4000", "--out", model, str(corpus))
        reference = Tokenizer.from_file(model + "/tokenizer.json")
        if reference.get_vocab_size() != 4000 or reference.token_to_id("<pad>") != 3999:
            sys.exit("the vocabulary is not laid out as it should be")
        for special in (False, True):
            count = check(program, model, texts, reference, special)
            print(f"{count} equal ids, special tokens {'found' if special else 'as text'}")
        for text in texts[:20]:
            ids = reference.encode(text, add_special_tokens=False).ids[:100]
            ours = json.loads(run(program, "detokenize", model, "--json", "--ids", ",".join(map(str, ids))))["text"]
            if ids and ours != reference.decode(ids, skip_special_tokens=False):
                sys.exit(f"decoded text differs: {ours!r}")


def check_lines(program, folder, file):
    """Each line by itself; the first that differs is shown."""
    reference = hugging_face(folder)
    ours = run(program, "tokenize", str(folder), "--file", str(file), "--lines").decode().split("\n")[:-1]
    lines = file.read_bytes().decode("utf-8").split("\n")[:-1]
    if len(ours) != len(lines):
        sys.exit(f"{folder.name}: {len(ours)} lists of ids for {len(lines)} lines")
    count, part = 0, 10_000
    for begin in range(0, len(lines), part):
        encoded = reference.encode_batch_fast(lines[begin:begin + part], add_special_tokens=False)
        for at, expected in enumerate(encoded, begin):
            count += len(expected.ids)
            if ours[at] != ",".join(map(str, expected.ids)):
                sys.exit(f"{folder.name}: line {at + 1} {lines[at][:200]!r}: fulgur {ours[at]}, expected {expected.ids}")
    print(f"{folder.name}: {count} equal ids of {len(lines)} lines, {file.stat().st_size / 1e6:.1f} MB")


def check_published(program, shared):
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(shared, scratch)
        text = text_of(shared, "text_multilingual", TEXT_BYTES)
        text += text_of(shared, "text_zh", TEXT_BYTES - len(text))
        file = pathlib.Path(scratch, "lines.txt")
        file.write_bytes(text)
        for name in NAMES:
            check_lines(program, folder / name, file)


def main():
    program, shared, *files = sys.argv[1:]
    check_trained(program, files)
    if not pathlib.Path(shared, "data/tokenizers.tar.xz").exists():
        print(f"skipped: no published vocabularies in {shared}")
        sys.exit(77)
    check_published(program, shared)


main()
