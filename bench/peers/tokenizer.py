"""Times `fulgur bench tokenizer` and Hugging Face's tokenizers on the same documents, one thread each, in turn, in the
process's own time: others who use the core do not count.

usage: python3 tokenizer.py FULGUR SHARED [ROUNDS]     SHARED: the folder with published vocabularies and texts

Needs the package tokenizers. Of each side the fastest pass of all rounds counts. Both must find as many tokens;
tests/tokenizer_hf.py compares the ids.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests"))

import json

import tokenizers
from published_tokenizers import NAMES, hugging_face, text_of, unpack

TEXTS = {"English": "text_en", "Chinese": "text_zh", "300 languages": "text_multilingual"}
TEXT_BYTES = 4_000_000
DOCUMENT_BYTES = 1 << 16


def documents_of(text):
    """Cut as `fulgur bench tokenizer` cuts it."""
    documents = []
    while text:
        newline = text.find(b"\n", DOCUMENT_BYTES - 1) if len(text) > DOCUMENT_BYTES else -1
        end = newline + 1 if newline >= 0 else len(text)
        documents.append(text[:end].decode("utf-8"))
        text = text[end:]
    return documents


def ours(program, tokenizer, file):
    """MB/s and tokens of the faster of two passes."""
    command = [program, "bench", "tokenizer", str(tokenizer), str(file), "--passes", "2", "--json",
               "--document-bytes", str(DOCUMENT_BYTES)]
    figure = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["figures"][0]
    return figure["value"], figure["tokens"]


def theirs(tokenizer, documents, megabytes):
    start = time.process_time()
    encoded = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    return megabytes / (time.process_time() - start), sum(len(e.ids) for e in encoded)


def main():
    program, shared = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    print(f"Hugging Face tokenizers {tokenizers.__version__}, one thread each, best of {rounds} rounds")
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(shared, scratch)
        for name in NAMES:
            reference = hugging_face(folder / name)
            for language, archive in TEXTS.items():
                text = text_of(shared, archive, TEXT_BYTES)
                file = pathlib.Path(scratch, "text.txt")
                file.write_bytes(text)
                documents, megabytes = documents_of(text), len(text) / 1e6
                pairs = [(ours(program, folder / name, file), theirs(reference, documents, megabytes))
                         for _ in range(rounds)]
                (rate, count), (their_rate, their_count) = (max(side) for side in zip(*pairs))
                if count != their_count:
                    sys.exit(f"{name}, {language}: {count} tokens, expected {their_count}")
                print(f"{name:12} {language:14} {megabytes:5.1f} MB  fulgur {rate:6.1f} MB/s  "
                      f"Hugging Face {their_rate:5.2f} MB/s  {rate / their_rate:5.1f} times  {count} tokens", flush=True)


main()
