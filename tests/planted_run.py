"""Prepares a planted corpus with two threads, with one, and killed in its middle, and judges the result.

usage: planted_run.py FULGUR FOLDER [--megabytes N] [--shared FOLDER]

Makes the corpus in FOLDER where it is not there yet (planted_corpus.py), prepares it three times, prints the speed of each
stage and what judge_planted.py finds. Fails where the three differ in a byte of any file but the report, whose times are
its own, or where the judge fails.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
REPORTS = {"report.json", "report.html"}


def prepare(options, name, threads):
    settings = [f'prepare.out="{options.folder / name}"', f"prepare.threads={threads}",
                f"prepare.unit_bytes={int(options.megabytes * 1e6 / 16)}"]
    command = [options.fulgur, "data", "prepare", options.folder / "prepare.toml"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_after(options, name, stage, files):
    """Whether the preparation was killed once the stage had left so many files; it may be through before."""
    process, folder = prepare(options, name, 2), options.folder / name / "work" / stage
    while process.poll() is None:
        if len(list(folder.glob("*.safetensors"))) >= files:
            process.kill()
            process.wait()
            return not (options.folder / name / "index.json").exists()
        time.sleep(0.01)
    return False


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in REPORTS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def speeds(folder):
    return {stage["name"]: stage for stage in json.loads((folder / "report.json").read_text())["stages"]}


def print_speeds(two, one):
    print(f"{'stage':<24}{'MB in':>10}{'MB/s, 2 threads':>18}{'MB/s, 1 thread':>18}")
    for name, stage in two.items():
        print(f"{name:<24}{stage['bytes_in'] / 1e6:>10.1f}{stage['mb_per_s']:>18.1f}{one[name]['mb_per_s']:>18.1f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fulgur", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--shared", type=pathlib.Path)
    options = parser.parse_args()
    if not (options.folder / "manifest.json").exists():
        shared = ["--shared", options.shared] if options.shared else []
        subprocess.run([sys.executable, REPOSITORY / "tests/planted_corpus.py", options.folder, "--megabytes",
                        str(options.megabytes), *shared], check=True)
    for name in ("two", "one", "killed"):
        shutil.rmtree(options.folder / name, ignore_errors=True)
    if prepare(options, "two", 2).wait() or prepare(options, "one", 1).wait():
        sys.exit("planted_run: data prepare failed")
    print_speeds(speeds(options.folder / "two"), speeds(options.folder / "one"))
    kills = [killed_after(options, "killed", "clean", 8), killed_after(options, "killed", "tokens", 8)]
    if prepare(options, "killed", 2).wait():
        sys.exit("planted_run: data prepare failed where it went on")
    whole = digests(options.folder / "two")
    same = {name: digests(options.folder / name) == whole for name in ("one", "killed")}
    print(f"{len(whole)} files, sha256 as with two threads: with one {same['one']}, killed {sum(kills)} times with "
          f"SIGKILL {same['killed']}", flush=True)
    judged = subprocess.run([sys.executable, REPOSITORY / "tests/judge_planted.py", options.folder, options.folder / "two",
                             REPOSITORY / "data/tiny/tokenizer/tokenizer.json"], check=False)
    sys.exit(0 if all(same.values()) and any(kills) and judged.returncode == 0 else "planted_run: failed")


if __name__ == "__main__":
    main()
