# Sourced by the scripts of this folder: where the project is, what belongs to it, and how they speak.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

say() { printf '\n== %s\n' "$*"; }

stop() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

# The files of the project, one a line: those git tracks or would; without git, all but what building and running leave.
project_files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard | while IFS= read -r file; do
      if [ -f "$file" ]; then printf '%s\n' "$file"; fi
    done
  else
    find . -type f -not -path './build/*' -not -path './runs/*' -not -path './.git/*' | sed 's|^\./||'
  fi | LC_ALL=C sort -u
}

# Our C++ and CUDA files.
source_files() { project_files | grep -E '^(src|apps|tests|bench)/.*\.(h|cpp|cu|cuh)$' || true; }

# Which nvcc to use: the one on PATH, else the toolkit's usual place. Nothing printed: there is none.
find_nvcc() { command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && printf '/usr/local/cuda/bin/nvcc\n'; } || true; }

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# The clang-format that judges: version 14, for others lay some lines out differently. Nothing printed: it is not here.
find_clang_format() {
  local program
  for program in clang-format-14 clang-format; do
    if [[ $("$program" --version 2>/dev/null) == *'version 14.'* ]]; then
      printf '%s\n' "$program"
      return
    fi
  done
}
