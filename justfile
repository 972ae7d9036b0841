# Every recipe sets up what it needs; `./just RECIPE` runs them where `just` is not installed.
set positional-arguments

bin := justfile_directory() / ".venv/bin"
export PYTHONPATH := ""

[private]
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

[private]
_core:
    @scripts/setup core

[private]
_musicgen:
    @scripts/setup musicgen

[private]
_dev:
    @scripts/setup dev

# Set up, and create the database.
init: _core db-init

# Make music from a sentence: just generate "lo-fi beat at 82 BPM" [SECONDS] [--seed 7 ...]
[no-cd]
generate PROMPT *SECONDS_AND_OPTIONS: _core
    @prompt=$1; shift; \
    case ${1:-} in "" | -*) ;; *) set -- --duration "$@" ;; esac; \
    "{{ bin }}/dgx-music" generate "$@" -- "$prompt"

# Serve the REST API with a worker inside: just serve --port 8000
[no-cd]
serve *OPTIONS: _core
    @"{{ bin }}/dgx-music" serve "$@"

# Install neural models: just install-models musicgen-small musicgen-melody
[no-cd]
install-models *NAMES: _musicgen
    @"{{ bin }}/dgx-music" models install "$@"

# Write takes as an Ardour session: just export-ardour last [--output ~/sessions]
[no-cd]
export-ardour *JOBS_AND_OPTIONS: _core
    @"{{ bin }}/dgx-music" export-ardour "$@"

# List jobs, newest first.
[no-cd]
history *OPTIONS: _core
    @"{{ bin }}/dgx-music" history "$@"

# All tests, some at a time; of those for two databases the seed draws one. They keep pytest's
# bytecode, whatever the environment says.
test *OPTIONS: _dev
    @DGX_MUSIC_TEST_ONE_DATABASE=1 PYTHONDONTWRITEBYTECODE="" "{{ bin }}/pytest" --numprocesses auto --dist worksteal "$@"

# Tests without database servers and other processes.
test-unit *OPTIONS: _dev
    @"{{ bin }}/pytest" -m "not (nightly or integration or postgres)" "$@"

# Tests with real databases, files and processes.
test-integration *OPTIONS: _dev
    @"{{ bin }}/pytest" -m "(integration or postgres) and not nightly" "$@"

# Tests of the files for DAWs, in Ardour itself where it is or can be installed.
test-daw *OPTIONS: _dev
    @"{{ bin }}/pytest" tests/daw "$@"

# All tests, with branch coverage.
test-coverage *OPTIONS: _dev
    @"{{ bin }}/pytest" --cov --cov-report=term-missing:skip-covered --cov-report=html "$@"

# The long form of the property tests, with thousands of examples each.
test-nightly *OPTIONS: _dev
    @"{{ bin }}/pytest" -m nightly "$@"

# Kill, freeze and cancel workers, engines and jobs at random, on both databases: just chaos 300
chaos SECONDS="60": _dev
    @DGX_MUSIC_TEST_CHAOS_SECONDS="{{ SECONDS }}" "{{ bin }}/pytest" -m nightly -s tests/worker/test_chaos.py

# Format the code.
format: _dev
    @"{{ bin }}/ruff" format .
    @"{{ bin }}/ruff" check --fix-only --quiet .

# Check the format, ruff's rules, and the direction of imports.
lint: _dev
    @"{{ bin }}/ruff" format --check .
    @"{{ bin }}/ruff" check .
    @"{{ bin }}/lint-imports" --no-cache

# Check the types (mypy strict).
typecheck: _dev
    @"{{ bin }}/mypy"

# lint and typecheck.
quality: lint typecheck

# Create the database, or upgrade an old one.
[no-cd]
db-init: _core
    @"{{ bin }}/dgx-music" db init

# Upgrade the database to the newest revision.
[no-cd]
db-migrate: _core
    @"{{ bin }}/dgx-music" db migrate

# Delete all jobs from the database, after asking.
[no-cd]
db-reset *OPTIONS: _core
    @"{{ bin }}/dgx-music" db reset "$@"

# Check the GPU.
[no-cd]
validate-gpu *OPTIONS: _core
    @"{{ bin }}/dgx-music" validate-gpu "$@"

# Render 2 seconds with a model and check them: just test-model musicgen-small
[no-cd]
test-model *NAME_AND_OPTIONS: _core
    @"{{ bin }}/dgx-music" models test "$@"

# Measure the figures of docs/benchmarks.md on this machine.
benchmark *OPTIONS: _dev
    @"{{ bin }}/python" -m benchmarks "$@"

# Draw the pictures of docs/.
[no-cd]
pictures *OPTIONS: _dev
    @"{{ bin }}/python" "{{ justfile_directory() }}/scripts/pictures.py" "$@"

# Print which room imports which.
rooms: _dev
    @"{{ bin }}/python" scripts/rooms.py

# Write the generated blocks of docs/, and THIRD_PARTY.md.
docs: _dev
    @"{{ bin }}/python" scripts/docs.py
    @"{{ bin }}/python" scripts/third_party.py

# Pin the dependencies.
lock: _dev
    @scripts/lock

# What continuous integration runs.
ci: test quality

# Remove caches and the virtual environment, but not data/.
clean:
    @rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis htmlcov .coverage .coverage.* .set-up.lock dist
    @find . -name __pycache__ -type d -prune -exec rm -rf {} +
