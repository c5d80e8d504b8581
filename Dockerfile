# Images for `spiral launch kuberay` and `ray-up --image`. Not built by us yet: we have had no Docker and no GPU.
#
#   docker build --target cpu -t registry.example/spiral:0.1.0-cpu .
#   docker build --target gpu -t registry.example/spiral:0.1.0 .
#
# `make venv` installs the versions of requirements/. PyTorch's and vLLM's wheels bring CUDA with them; the host needs
# NVIDIA's driver and container toolkit.
FROM python:3.11-slim-bookworm AS base
# gcc, g++: vLLM on a CPU, and Triton on a GPU, compile when an engine starts. libnuma1: vLLM on a CPU. wget: KubeRay's health
# checks. rsync, ssh and procps: Ray's cluster launcher.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libnuma1 make openssh-client procps rsync wget \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/spiral
COPY . .
ENV PATH=/opt/spiral/.venv/bin:$PATH

FROM base AS cpu
RUN make venv EXTRA=cpu \
    && .venv/bin/uv pip install --python .venv/bin/python 'ray[default]' -c requirements/cpu.txt --overrides requirements/cpu-overrides.txt

FROM base AS gpu
RUN make venv EXTRA=gpu \
    && .venv/bin/uv pip install --python .venv/bin/python 'ray[default]' -c requirements/gpu.txt
