"""The published vocabularies and the texts of the shared folder, as Hugging Face's tokenizers reads them."""

import gzip
import lzma
import pathlib
import tarfile

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

NAMES = ["minimax", "qwen3", "deepseek_v3", "gpt2"]


def unpack(shared, folder):
    """Writes tokenizers/NAME/ of every name below folder, as fulgur and Hugging Face read them."""
    folder = pathlib.Path(folder)
    with tarfile.open(pathlib.Path(shared, "data/tokenizers.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    for packed in folder.glob("tokenizers/*/tokenizer.json.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    own = folder / "tokenizers/minimax"
    own.mkdir()
    packed = pathlib.Path(shared, "data/tokenizers/minimax/tokenizer.json.xz").read_bytes()
    (own / "tokenizer.json").write_bytes(lzma.decompress(packed))
    return folder / "tokenizers"


def hugging_face(folder):
    """The tokenizer of a folder; what a special token says is text."""
    file = folder / "tokenizer.json"
    if file.exists():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    return tokenizer


def text_of(shared, archive, most):
    """The first bytes of the archive's texts, up to the end of a line."""
    text = b""
    with tarfile.open(pathlib.Path(shared, "data", archive + ".tar.xz")) as files:
        for file in sorted((f for f in files if f.isfile()), key=lambda f: f.name):
            text += files.extractfile(file).read().rstrip(b"\n") + b"\n"
            if len(text) >= most:
                break
    return text[: text.rfind(b"\n", 0, most) + 1]
