# Two commands do everything, set-up included: `make quickstart` (SMOKE=1: reduced size) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := launch/requirements-cpu.lock
STUDIES := $(addprefix recipes/study_,$(addsuffix .yaml,premise collapse training ablation))

.PHONY: quickstart test study study-support lint lock clean

quickstart: $(INSTALLED)
	$(BIN)/python -m led_rl.toy.quickstart $(if $(SMOKE),--smoke)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# The studies of docs/evidence.md: less than three hours on two cores (`.venv/bin/led-rl study --plan ...` says how long);
# what exists is not done again.
study: $(INSTALLED)
	$(BIN)/led-rl study $(STUDIES)

# About three hours on two cores; what exists is not done again.
study-support: $(INSTALLED)
	$(BIN)/python -m led_rl.toy.support_study

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch

# The lock is complete, so nothing is resolved: --no-deps also leaves out torchvision, torchaudio and torchcodec, which
# the CPU build of vLLM names but text models do not need, and whose CUDA builds break transformers beside CPU torch.
$(INSTALLED): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0+cpu --no-deps \
		--extra-index-url https://download.pytorch.org/whl/cpu
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock: $(INSTALLED)
	$(BIN)/pip freeze --all --exclude-editable | grep -v -E '^(torch|pip|led-rl)(==| @)' > $(LOCK)

clean:
	rm -rf runs
