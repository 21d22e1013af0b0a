"""Judges prepared data against what planted_corpus.py planted, reading shards and tokenizer by itself.

usage: judge_planted.py CORPUS PREPARED TOKENIZER.json

Fails where fewer than 95 % of the copies at a Jaccard index of 0.8 or more were found, 0.1 % or more of the distinct
documents were lost, a window of 200 bytes of an evaluation text is in a shard, or another planted document was not treated
as expected. A distinct document is lost where neither it nor a copy of it was kept.
"""

import array
import json
import pathlib
import sys

from planted_corpus import Windows


def byte_of_char():
    """The byte-level alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


def token_bytes(tokenizer):
    table = byte_of_char()
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    return {i: bytes(table[c] for c in token) for token, i in vocabulary.items() if all(c in table for c in token)}


def tensors_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: array.array({"I32": "i", "I64": "q"}[t["dtype"]],
                              data[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]])
            for name, t in header.items()}


def kept_documents(prepared, tokenizer, files):
    """([file, number], text) of every document in the shards."""
    index = json.loads((prepared / "index.json").read_text())
    names = [next(f for f in files if i["path"].endswith(f)) for i in index["inputs"]]
    tokens = token_bytes(tokenizer)
    for source in index["sources"]:
        for shard in source["shards"]:
            t = tensors_of(prepared / shard["file"])
            ids, begin, origin = t["tokens"], t["begin"], t["origin"]
            for i in range(len(begin) - 1):
                framed = ids[begin[i]:begin[i + 1]]
                if framed[0] != index["begin_of_sentence"] or framed[-1] != index["end_of_document"]:
                    sys.exit(f"judge: {shard['file']}, document {i} is not framed")
                text = b"".join(map(tokens.__getitem__, framed[1:-1]))
                if len(text) != t["bytes"][i]:
                    sys.exit(f"judge: {shard['file']}, document {i} has {len(text)} bytes, not {t['bytes'][i]}")
                text.decode("utf-8")
                yield (names[origin[2 * i]], origin[2 * i + 1]), text


def share(part, whole):
    return f"{part} of {whole} ({100 * part / max(whole, 1):.3f} %)"


def judge_pairs(pairs, kept):
    by_tenth, found, alike = {}, 0, 0
    for pair in pairs:
        is_found = not (tuple(pair["a"]) in kept and tuple(pair["b"]) in kept)
        counts = by_tenth.setdefault(int(pair["jaccard"] * 10), [0, 0])
        counts[0] += is_found
        counts[1] += 1
        if pair["jaccard"] >= 0.8:
            found, alike = found + is_found, alike + 1
    for tenth in sorted(by_tenth):
        print(f"copies with a Jaccard index from {tenth / 10}: {share(*by_tenth[tenth])} found")
    print(f"copies from 0.8 on: {share(found, alike)} found")
    return found >= 0.95 * alike


def judge_lost(manifest, kept):
    others = {tuple(p["at"]) for p in manifest["planted"]} | {tuple(p["b"]) for p in manifest["pairs"]}
    copies = {}
    for pair in manifest["pairs"]:
        copies.setdefault(tuple(pair["a"]), []).append(tuple(pair["b"]))
    distinct = [at for file, n in manifest["files"].items() for i in range(n) if (at := (file, i)) not in others]
    lost = [at for at in distinct if at not in kept and not any(b in kept for b in copies.get(at, []))]
    print(f"distinct documents: {share(len(lost), len(distinct))} lost", *lost[:5])
    return len(distinct) == manifest["distinct"] and len(lost) < 0.001 * len(distinct)


def judge_planted(planted, kept):
    right = True
    for kind in sorted({p["kind"] for p in planted}):
        those = [p for p in planted if p["kind"] == kind]
        count = sum(tuple(p["at"]) in kept for p in those)
        expected = those[0]["expected"]
        print(f"{kind}: {share(count, len(those))} kept, expected: {expected}")
        right &= {"dropped": count == 0, "kept": count == len(those), "valid": True}[expected]
    return right


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    corpus, prepared, tokenizer = map(pathlib.Path, sys.argv[1:])
    manifest = json.loads((corpus / "manifest.json").read_text())
    evaluation = (corpus / "evaluation.jsonl").read_text().splitlines()
    windows = Windows(json.loads(line)["text"].encode() for line in evaluation)
    kept, hits = set(), 0
    for at, text in kept_documents(prepared, tokenizer, manifest["files"]):
        kept.add(at)
        hits += windows.occur_in(text)
    print(f"{len(kept)} documents kept of {sum(manifest['files'].values())}, all valid UTF-8; {hits} hold one of "
          f"{len(windows.windows)} evaluation windows")
    passed = [judge_pairs(manifest["pairs"], kept), judge_lost(manifest, kept),
              judge_planted(manifest["planted"], kept), hits == 0]
    sys.exit(0 if all(passed) else "judge: failed")


if __name__ == "__main__":
    main()
