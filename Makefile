# make demo     the whole workflow on small images, in minutes
# make test     the tests, but for some that take long and are covered by others as well
# make test-all all tests
# make test-slow those alone that make test leaves out
# make test-faults kills, signals, full disks, damaged files, odd configurations, two at once: an hour (FAULTS=--help)
# make test-slurm the workflow on a real SLURM, installed and started here if need be: a quarter of an hour (SLURM=--help)
# make test-versions the oldest and newest libraries that pyproject.toml allows, in environments of their own: docs/versions.md
# make check    format, lint, types, import contracts, generated files
# make generate writes the generated files again (schemas/, pages of docs/, pictures of graphs in docs/)
# make site     the documentation as a site in site/, without a network
# make pictures copies the demo's picture into docs/, and draws the tutorial's anew
# make wheel    a wheel of the package in dist/, tried in an empty folder
# make bench    how fast it is, against the plain way: docs/performance.md (make bench RELEASE=FOLDER: and the authors' code)
# make bench-gpu the same on a GPU, most telling figures first; goes on where it was stopped
# make gpu-trial the whole workflow on a GPU in six minutes, on photographs in data/ (docs/gpu.md); goes on as well
# make clean    removes what the demo wrote, and the environment
#
# Each installs what it needs into .venv the first time. Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1
export MPLBACKEND := agg

# What other work has set for Python and pip is not meant for this environment: foreign packages would come before its
# own, and pip would install elsewhere (PIP_USER=0 overrides a pip.conf as well).
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV
export PIP_USER := 0

.PHONY: demo test test-all test-slow test-faults test-slurm test-versions check generate site pictures wheel revisions bench bench-gpu gpu-trial clean

demo: $(INSTALLED)
	@$(BIN)/snakemake --logger deqpipe --configfile config/demo.yaml
	@$(BIN)/deqpipe show-table 1 --results results/demo --closing

test: $(INSTALLED)
	@$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile -m "not slow"

test-all: $(INSTALLED)
	@$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: $(INSTALLED)
	@$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile -m slow

# Such as FAULTS="kills --count 30", or FAULTS="kills --case 17" for one that went wrong.
test-faults: $(INSTALLED)
	@$(BIN)/python -m tests.faults $(FAULTS)

# Such as SLURM="--case cancelled --accounting".
test-slurm: $(INSTALLED)
	@$(BIN)/python -m tests.slurm $(SLURM)

# Such as VERSIONS="--oldest python3.11 --newest python3.13", or VERSIONS=oldest.
test-versions: $(INSTALLED)
	@$(BIN)/python -m tests.versions $(VERSIONS)
	@$(BIN)/python -m documentation.generate

check: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m documentation.generate --check

generate: $(INSTALLED)
	@$(BIN)/python -m documentation.generate

site: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "Site: $(CURDIR)/site/index.html"

wheel: $(INSTALLED)
	@rm -rf build/lib
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .
	@$(BIN)/python -m pytest -q tests/test_wheel.py
	@ls dist/*.whl

# After `make demo`: README and the tutorial show what it wrote.
pictures: $(INSTALLED)
	@cp results/demo/overview.png docs/overview.png
	@$(BIN)/python -m documentation.tutorial

# After a change that cannot change results (a revision was not raised): records the code of every stage anew.
revisions: $(INSTALLED)
	@$(BIN)/python -m tests.record_revisions

# For an idle machine: RELEASE=FOLDER is a work tree of the authors' code (benchmarks/README.md).
bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks.speed $(BENCH)
	@$(if $(RELEASE),$(BIN)/python -m benchmarks.speed --release "$(RELEASE)" $(BENCH))

bench-gpu: $(INSTALLED)
	@$(BIN)/python -m benchmarks.speed_gpu $(if $(RELEASE),--release "$(RELEASE)") $(BENCH)

# So many seconds at once, and so many jobs on the GPU.
TRIAL_SECONDS ?= 360
TRIAL_JOBS ?= 4

gpu-trial: $(INSTALLED)
	@$(BIN)/deqpipe trial --configfile config/gpu-trial.yaml --seconds $(TRIAL_SECONDS) --gpu-jobs $(TRIAL_JOBS)

clean:
	@rm -rf $(VENV) results/demo logs/demo state/demo

# The stamp says where the environment was made, and of which pins. One that came here with its folder, moved or copied,
# names another place: it is repaired, in a moment and without network. It is removed only if its Python does not exist:
# one that cannot be read or started now (a stale mount, too little memory) may be there again in a moment.
PINS = cat requirements.txt pyproject.toml | cksum
COMES_FROM := $(shell sed -n 1p $(INSTALLED) 2>/dev/null)

ifneq "$(wildcard $(INSTALLED))" ""
ifneq "$(COMES_FROM)" "$(CURDIR)"
FOREIGN := yes
endif
endif

ifdef FOREIGN
.PHONY: $(INSTALLED)
$(INSTALLED):
	@if LC_ALL=C head -c 1 $(BIN)/python 2>&1 >/dev/null | grep -q 'No such file'; then \
	  echo "The Python that $(VENV) was made of is gone: it is made anew."; rm -rf $(VENV); \
	elif ! $(BIN)/python -c '' 2>/dev/null; then \
	  echo "$(BIN)/python is there, but does not run: try again, or remove $(VENV), and make installs another" >&2; exit 2; \
	else \
	  $(BIN)/python -I deqpipe/machine/relocation.py $(VENV) || exit; \
	  pins=$$($(PINS)); known=$$(sed -n 2p $@); cp -p $@ $@.before; \
	  { echo "$(CURDIR)"; echo "$$known"; } > $@; \
	  [ "$$known" = "$$pins" ] || touch -r $@.before $@; rm -f $@.before; \
	fi
	@$(MAKE) --silent $@
else
$(INSTALLED): requirements.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) was not found: Python 3.11 or newer is needed (make PYTHON=/path/to/python3)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1): Python 3.11 or newer is needed (make PYTHON=python3.11)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the venv module: install it (on Debian and Ubuntu the package python3-venv)" >&2; exit 2; }
	@echo "Installing into $(VENV): once, some minutes and several GB (PyTorch) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@$(BIN)/python -m compileall -qq deqpipe snakemake_logger_plugin_deqpipe
	@{ echo "$(CURDIR)"; $(PINS); } > $@
endif
