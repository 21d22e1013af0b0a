"""Makes a corpus of raw text in which duplicates, broken text and evaluation leaks are planted, and says where.

usage: planted_corpus.py OUT --megabytes N [--shared FOLDER] [--seed S]

The text comes from the repository's stories and, where --shared names the reference folder, from its archives; what is
missing to N is made of shuffled sentences. Distinct documents are distinct by a check of their own: no two of them have a
Jaccard index of 0.5 or more, and none shares 200 bytes with an evaluation text. OUT gets raw/*.txt and raw/*.jsonl,
evaluation.jsonl, prepare.toml for `fulgur data prepare`, and manifest.json:
  files: documents of each file; distinct: number of distinct documents
  pairs: {a, b, kind, jaccard}    copies: b of the distinct document a, both [file, number]; jaccard of their shingles
  planted: {at, kind, expected}    expected: dropped, valid (if kept, then as valid UTF-8) or kept
The judge is judge_planted.py.
"""

import argparse
import collections
import gc
import io
import itertools
import json
import lzma
import pathlib
import random
import re
import tarfile
import unicodedata
import zlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
ARCHIVES = ["stories_en", "books_en", "text_en", "text_zh", "prose_zh", "text_multilingual", "chat", "sft_pref"]
SEPARATOR = b"\n<|endoftext|>\n"
FILE_BYTES = 40_000_000
UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
            (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3FFFF)]
FOOTER = ("\n\nShare this page with your friends. Subscribe to our newsletter for more. All rights reserved. "
          "By using this site you agree to the terms of service and the privacy policy.")


class Folding(dict):
    """A table for str.translate: words in lower case (ASCII), characters of unspaced scripts alone, spaces for the rest."""

    def __init__(self):
        super().__init__()
        self.unspaced = set()  # characters met so far

    def __missing__(self, code_point):
        char = chr(code_point)
        if unicodedata.category(char)[0] not in "LMN":
            folded = " "
        elif any(first <= code_point <= last for first, last in UNSPACED):
            folded = f" {char} "
            self.unspaced.add(char)
        else:
            folded = char.lower() if code_point < 128 else char
        self[code_point] = folded
        return folded


FOLDING = Folding()


def units_of(text):
    return text.translate(FOLDING).split()


def shingles(text, sample=None):
    """What src/data/shingles.h says, as a set of texts; of a sample those whose first unit it maps to True."""
    units, unspaced = units_of(text), FOLDING.unspaced
    begins = itertools.compress(itertools.count(), map(sample.__getitem__, units)) if sample else range(len(units))
    ends = ((i, i + (8 if units[i] in unspaced else 5)) for i in begins)
    return {" ".join(units[i:end]) for i, end in ends if end <= len(units)} or {" ".join(units)}


def jaccard_of(x, y):
    return len(x & y) / len(x | y)


def jaccard(a, b):
    return jaccard_of(shingles(a), shingles(b))


def archive_texts(shared):
    """Every text file of the archives, and the dialogues of every .jsonl as texts of their own."""
    for archive in ARCHIVES:
        with tarfile.open(shared / "data" / f"{archive}.tar.xz") as tar:
            for member in sorted((m for m in tar if m.isfile()), key=lambda m: m.name):
                if not member.name.endswith((".txt", ".md", ".jsonl")):
                    continue
                text = tar.extractfile(member).read().decode("utf-8", "replace").replace("\r\n", "\n")
                if not member.name.endswith(".jsonl"):
                    yield text
                    continue
                for line in text.splitlines():
                    record = json.loads(line)
                    turns = [str(turn.get("content", "")) for turn in record.get("messages", [])]
                    yield "\n".join(turns) or str(record.get("text", ""))


def documents_of(text, rng):
    """Pieces of whole paragraphs, of 600 to 5000 characters where the text is long."""
    for part in re.split(r"\n<\|endoftext\|>\n", text):
        if len(part) <= 6000:
            yield part
            continue
        piece, left = [], rng.randrange(600, 5000)
        for paragraph in part.split("\n"):
            piece.append(paragraph)
            left -= len(paragraph)
            if left <= 0:
                yield "\n".join(piece)
                piece, left = [], rng.randrange(600, 5000)


class InSample(dict):
    """Which units begin a shingle of the sample: a fourth of all, by a hash."""

    def __missing__(self, unit):
        self[unit] = zlib.crc32(unit.encode()) % 4 == 0
        return self[unit]


class Windows:
    """Every 200 bytes in a row of some texts. A text with one of them has all of one of its own blocks of 100 bytes, which
    are those that are looked up first."""

    def __init__(self, texts):
        self.windows, self.blocks = set(), set()
        for data in texts:
            self.windows.update(data[i:i + 200] for i in range(len(data) - 199))
            self.blocks.update(data[i:i + 100] for i in range(len(data) - 99))

    def occur_in(self, data):
        return any(data[i:i + 100] in self.blocks for i in range(0, len(data) - 99, 100)) \
            and any(data[i:i + 200] in self.windows for i in range(len(data) - 199))


class Distinct:
    """Accepts a text whose Jaccard index with every one accepted before is below 0.5. What to compare it with is found
    through the 32 smallest hashes of its sample, of which texts at 0.5 share half in the mean; one that many texts hold
    tells nothing."""

    MOST = 32

    def __init__(self):
        self.texts, self.owners, self.in_sample = [], {}, InSample()

    def offer(self, text):
        sketch = sorted(map(hash, shingles(text, self.in_sample)))[:32]
        if len(sketch) < 12:
            return False
        shared = collections.Counter(itertools.chain.from_iterable(self.owners.get(h, ()) for h in sketch))
        if max(shared.values(), default=0) >= 0.6 * len(sketch):
            return False
        close = [d for d, n in shared.items() if n >= 0.2 * len(sketch)]
        whole = shingles(text) if close else set()
        if any(jaccard_of(whole, shingles(self.texts[d])) >= 0.5 for d in close):
            return False
        for h in sketch:
            owners = self.owners.setdefault(h, [])
            if len(owners) < self.MOST:
                owners.append(len(self.texts))
        self.texts.append(text)
        return True

    def with_windows_of(self, numbers):
        """The accepted texts that share 200 bytes with one of the given ones, themselves among them."""
        windows = Windows(self.texts[d].encode() for d in numbers)
        return {d for d, text in enumerate(self.texts) if windows.occur_in(text.encode())}


def is_plain(text):
    """Prose, so that what is lost was lost to a search for duplicates."""
    lines = text.split("\n")
    return 300 <= len(text) <= 20_000 and sum(map(len, units_of(text))) >= 0.65 * len(text) \
        and len(set(lines)) >= 0.8 * len(lines) and unicodedata.is_normalized("NFC", text) and "\ufffd" not in text


def distinct_texts(shared, wanted, rng):
    texts = lzma.decompress((REPOSITORY / "data" / "stories_train.txt.xz").read_bytes()).decode()
    accepted, total = Distinct(), 0
    for text in itertools.chain([texts], archive_texts(shared) if shared else []):
        if total >= wanted:
            break
        for document in documents_of(text, rng):
            document = document.strip()
            if total < wanted and is_plain(document) and accepted.offer(document):
                total += len(document.encode())
    pool = [s for text in rng.sample(accepted.texts, min(len(accepted.texts), 40_000))
            for s in re.split(r"(?<=[.!?。！？])\s*", text) if 30 <= len(s) <= 300]
    while total < wanted:
        document = " ".join(rng.sample(pool, rng.randrange(12, 40)))
        if is_plain(document) and accepted.offer(document):
            total += len(document.encode())
    return accepted


def scattered(text, share, rng):
    """A share of the words, or of the characters where there are no words, exchanged for others of the text."""
    if is_chinese(text):
        chars = list(text)
        for i in rng.sample(range(len(chars)), max(1, int(share * len(chars)))):
            chars[i] = rng.choice(text)
        return "".join(chars)
    words = re.split(r"( |\n)", text)
    places = range(0, len(words), 2)
    for i in rng.sample(places, max(1, int(share * len(places)))):
        words[i] = words[rng.choice(places)]
    return "".join(words)


def near_copy(text, kind, rng):
    if kind.startswith("scattered"):
        return scattered(text, float(kind.split()[1]), rng)
    piece = int(len(text) * float(kind.split()[1]))
    at = rng.randrange(len(text) - piece)
    if kind.startswith("cut"):
        return text[:at] + text[at + piece:]
    return text[:at] + text[at:at + piece][::-1] + text[at + piece:]  # "block": reversed in place


def exact_copy(text, rng):
    return rng.choice([text, text.replace("\n", "\r\n"), unicodedata.normalize("NFD", text), text + "\n\n"])


def is_chinese(text):
    return sum(unit in FOLDING.unspaced for unit in units_of(text[:400])) > 100


class Corpus:
    def __init__(self, out, rng):
        self.out, self.rng, self.items = out, rng, []

    def add(self, data):
        """data: text, or bytes, which only a .txt can hold. Returns the item, whose place is known after write()."""
        item = {"data": data}
        self.items.append(item)
        return item

    def write(self):
        self.rng.shuffle(self.items)
        files, counts = {}, {}
        for item in self.items:
            data, name, kind = item["data"], "en", "txt"
            if isinstance(data, str):
                name = "zh" if is_chinese(data) else "en"
                kind = "jsonl" if self.rng.random() < 0.3 else "txt"
                data = data.encode() if kind == "txt" else json.dumps({"text": data}, ensure_ascii=False).encode()
            data += SEPARATOR if kind == "txt" else b"\n"
            number = 0
            while (path := f"raw/{name}-{number:02}.{kind}") in files and files[path].tell() > FILE_BYTES:
                number += 1
            files.setdefault(path, io.BytesIO()).write(data)
            item["at"] = [path, counts.get(path, 0)]
            counts[path] = counts.get(path, 0) + 1
        (self.out / "raw").mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            (self.out / path).write_bytes(content.getvalue())
        return counts


NEAR_KINDS = ["scattered 0.002", "scattered 0.005", "scattered 0.01", "scattered 0.02", "scattered 0.05",
              "cut 0.02", "cut 0.05", "cut 0.1", "block 0.02", "block 0.05"]


def broken(text, number, rng):
    """(data, kind, expected)"""
    latin = text[:1500].translate({ord("e"): "é", ord("o"): "ö"}).encode("latin-1", "replace")
    utf8, half = text.encode(), len(text.encode()) // 2
    return [(latin, "latin-1", "valid"), (text.encode("utf-16"), "utf-16", "valid"),
            (utf8[:half] + b"\xe4\xb8" + utf8[half:] + b"\xf0\x9f", "cut characters", "valid"),
            (rng.randbytes(1500).replace(b"\n", b"\x81"), "binary junk", "dropped"),
            ((text[:60] + "\n") * 60, "repetition", "dropped")][number % 5]


def leak(evaluation, host, number):
    """(text, kind, expected): alone, or between the halves of another text."""
    head, tail = host[:len(host) // 2], host[len(host) // 2:]
    below = evaluation[100:].encode()[:199].decode(errors="ignore")  # a byte less than a window
    return [(evaluation, "evaluation text", "dropped"),
            (f"{head}\n{evaluation[20:320]}\n{tail}", "evaluation excerpt", "dropped"),
            (f"{head} \u00a6{below}\u00a6 {tail}", "excerpt below a window", "kept")][number % 3]


# Of the rules for single texts only the one that is planted against, so that what is lost was lost as a duplicate.
CLEAN = """[clean]
min_words = 0
min_word_length = 0
max_word_length = 1000
min_alphabetic = 0
max_symbols = 1
max_symbol_words = 1
max_bullet_lines = 1
max_ellipsis_lines = 1
max_repeated_paragraphs = 1
max_repeated_paragraph_bytes = 1
max_top_ngram = [1, 1, 1]
max_repeated_ngrams = [1, 1, 1, 1, 1, 1]
"""


def configuration(out, files):
    text = f'[prepare]\nout = "{out}/prepared"\ntokenizer = "{REPOSITORY}/data/tiny/tokenizer"\n\n'
    for name, weight in (("en", 0.7), ("zh", 0.3)):
        if any(file.startswith(f"raw/{name}-") for file in files):
            text += f'[source.{name}]\nfiles = ["{out}/raw/{name}-*"]\nweight = {weight}\n\n'
    return text + CLEAN + f'\n[decontaminate]\nfiles = ["{out}/evaluation.jsonl"]\n'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    gc.disable()  # millions of small objects and no cycles
    rng = random.Random(options.seed)
    accepted = distinct_texts(options.shared, int(options.megabytes * 1e6 * 0.88), rng)
    held = max(5, len(accepted.texts) // 200)
    held_back = rng.sample(range(len(accepted.texts)), held)
    evaluation, tainted = [accepted.texts[d] for d in held_back], accepted.with_windows_of(held_back)
    texts = [text for d, text in enumerate(accepted.texts) if d not in tainted]
    rng.shuffle(texts)
    used, texts = texts[:2 * held], texts[2 * held:]
    corpus = Corpus(options.out, rng)
    pairs, planted = [], []
    for number, text in enumerate(texts):
        text += FOOTER if number % 50 == 1 else ""
        original, share = corpus.add(text), rng.random()
        if share < 0.03:
            pairs.append((original, corpus.add(exact_copy(text, rng)), "exact"))
        elif share < 0.12:
            kind = NEAR_KINDS[number % len(NEAR_KINDS)]
            pairs.append((original, corpus.add(near_copy(text, kind, rng)), kind))
    for number, (text, host, leaked) in enumerate(zip(used[:held], used[held:], evaluation)):
        for data, kind, expected in (broken(text, number, rng), leak(leaked, host, number)):
            planted.append((kind, expected, corpus.add(data)))
    files = corpus.write()
    copies = [{"a": a["at"], "b": b["at"], "kind": kind,
               "jaccard": round(jaccard(a["data"], unicodedata.normalize("NFC", b["data"])), 4)} for a, b, kind in pairs]
    others = [{"at": item["at"], "kind": kind, "expected": expected} for kind, expected, item in planted]
    manifest = {"files": files, "distinct": len(texts), "pairs": copies, "planted": others}
    (options.out / "prepare.toml").write_text(configuration(options.out.resolve(), files))
    (options.out / "evaluation.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in evaluation))
    (options.out / "manifest.json").write_text(json.dumps(manifest))
    megabytes = sum((options.out / file).stat().st_size for file in files) / 1e6
    print(f"{megabytes:.1f} MB in {len(files)} files: {len(texts)} distinct documents, {len(copies)} copies, "
          f"{len(others)} others planted")


if __name__ == "__main__":
    main()
