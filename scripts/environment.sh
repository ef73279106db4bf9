# Sourced by the other scripts: `environment run` makes $root/.venv hold what the app needs, `environment dev` what the tests
# need too.
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

# The locked requirements of `run`, or of `dev`, in the order in which they are installed.
locks() {
    echo requirements-torch.txt requirements.txt
    [[ $1 == run ]] || echo requirements-dev.txt
}

# One line that changes when the locked requirements, or Python, do.
fingerprint() {
    (cd "$root" && "$venv/bin/python" -c '
import hashlib, pathlib, sys
print(hashlib.sha256(sys.version.encode() + b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).hexdigest())
' $(locks "$1"))
}

# torch first and without hashes, since its builds differ between machines, with whatever that build needs; then all
# others exactly as they are locked.
install_locked() {
    local pip=("$venv/bin/python" -m pip install --disable-pip-version-check) name
    for name in $(locks "$1"); do
        echo "Installing $name" >&2
        case $name in
        requirements-torch.txt) "${pip[@]}" --requirement "$root/$name" >&2 ;;
        *) "${pip[@]}" --no-deps --require-hashes --requirement "$root/$name" >&2 ;;
        esac
    done
}

environment() {
    local stamp=$venv/.$1.installed wanted
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        local python
        python=$(find_python)
        echo "Making $venv (torch is large; once)" >&2
        rm -rf "$venv"
        if ! "$python" -m venv "$venv"; then
            rm -rf "$venv"
            echo "python3 could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        fi
    fi
    wanted=$(fingerprint "$1")
    if [[ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]]; then
        install_locked "$1"
        echo "$wanted" >"$stamp"
        [[ $1 == run ]] || fingerprint run >"$venv/.run.installed"
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
