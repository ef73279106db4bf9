# Sourced by the other scripts: `environment requirements.txt` makes $root/.venv hold what the file names.
# Needs python3 (3.11 or newer) with its venv module, and bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
unset PYTHONDONTWRITEBYTECODE # else every process of the tests compiles all of them again, and all of ours

# `run_pytest PROCESSES ARGUMENTS` runs pytest in so many processes (0: in one alone), each with one thread for its
# arithmetic, and the tests of a file together, which share what the file sets up; tests/conftest.py says which file
# comes first. What is to run beside another needs a cache of its own: both write down which tests failed.
run_pytest() {
    OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest --numprocesses "$1" --dist loadfile --no-loadscope-reorder "${@:2}"
}

# How many processes may compute at once: four at most.
cores() { "$venv/bin/python" -c "import os; print(min(4, os.cpu_count() or 1))"; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed: install it, or name it as in PYTHON=/path/to/python3 $0" >&2
    return 1
}

# One line that changes when the requirements, or the files that they include, do.
fingerprint() {
    "$venv/bin/python" - "$root" "$1" <<'PYTHON'
import hashlib, pathlib, sys
root, names, seen = pathlib.Path(sys.argv[1]), [sys.argv[2]], hashlib.sha256(sys.version.encode())
for name in names:
    text = (root / name).read_bytes()
    seen.update(text)
    names += [line.split()[1] for line in text.decode().splitlines() if line.startswith("-r ")]
print(seen.hexdigest())
PYTHON
}

environment() {
    local requirements=$1 stamp=$venv/.$1.installed wanted
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        local python
        python=$(find_python)
        echo "Making $venv" >&2
        rm -rf "$venv"
        if ! "$python" -m venv "$venv"; then
            rm -rf "$venv"
            echo "python3 could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        fi
    fi
    wanted=$(fingerprint "$requirements")
    if [[ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]]; then
        echo "Installing $requirements (torch is large; once)" >&2
        "$venv/bin/python" -m pip install --disable-pip-version-check --requirement "$root/$requirements" >&2
        echo "$wanted" >"$stamp"
        local included
        for included in $(sed -n 's/^-r //p' "$root/$requirements"); do
            fingerprint "$included" >"$venv/.$included.installed"
        done
    fi
}

# `run_beside COMMAND` starts a command beside what follows, and may be used several times; `finish_beside` waits for all
# of them, prints what each said, and fails if one failed. They end with the script, also when that is interrupted.
beside=()
beside_outputs=()
run_beside() {
    trap stop_beside EXIT
    beside_outputs+=("$(mktemp)")
    set -m # a process group of its own
    "$@" >"${beside_outputs[-1]}" 2>&1 &
    set +m
    beside+=($!)
}

finish_beside() {
    local index status=0
    for index in "${!beside[@]}"; do
        wait "${beside[index]}" || status=1
        cat "${beside_outputs[index]}"
    done
    return "$status"
}

stop_beside() {
    local group
    for group in "${beside[@]}"; do
        kill -- "-$group" 2>/dev/null || true
    done
    rm -f "${beside_outputs[@]}"
}
