# What a person runs, and what CI runs: the same commands. PYTHON chooses the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow interop fuzz check bench peers serving-peers proto soak zoo docs clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(VENV)/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	@touch $@

.interop/.made:
	@test -x .interop/bin/python || $(PYTHON) -m venv .interop
	.interop/bin/python -m pip install --quiet 'model-signing>=1.1,<2' 'sigstore>=4.2,<5' pyopenssl
	@echo '*' > .interop/.gitignore
	@touch $@

.clients/.made:
	@test -x .clients/bin/python || $(PYTHON) -m venv .clients
	@echo '*' > .clients/.gitignore
	.clients/bin/python -m pip install --quiet 'tritonclient[http,grpc]' kserve schemathesis
	@touch $@

.peers/.made: $(VENV)/.bench
	@test -x .peers/bin/python || $(BIN)/python -m venv .peers
	@echo '*' > .peers/.gitignore
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(.peers/bin/python -c 'import site; print(site.getsitepackages()[0])')/bench.pth
	.peers/bin/python -m pip install --quiet hqq auto-round
	@touch $@

demo: $(VENV)/.demo  ## train a small network on real data and optimize it; ends with demo/report.html
	$(BIN)/python examples/digits.py build/digits
	$(BIN)/tightship optimize build/digits/digits.onnx --data build/digits/held_out.npz --max-drop 0.01 --goal size -o demo
	@echo "The report: demo/report.html"

test: $(VENV)/.dev .clients/.made  ## run the tests, those with other people's clients of the inference protocol too
	TIGHTSHIP_CLIENTS=.clients/bin/python $(BIN)/python -m pytest -m 'not slow' -n 2

test-slow: $(VENV)/.dev .interop/.made .clients/.made  ## run the long checks too
	TIGHTSHIP_INTEROP=.interop/bin/python TIGHTSHIP_CLIENTS=.clients/bin/python $(BIN)/python -m pytest -m slow

interop: $(VENV)/.dev .interop/.made  ## check signatures both ways with OpenSSF's and Sigstore's own tools, in an environment of their own
	TIGHTSHIP_INTEROP=.interop/bin/python $(BIN)/python -m pytest -m slow tests/package/test_signing_interop.py tests/package/test_keyless_interop.py tests/package/test_keyless_forged.py

fuzz: $(VENV)/.dev  ## feed damaged files to every reader for FUZZ_SECONDS (120)
	$(BIN)/python -m tests.fuzz

check: $(VENV)/.dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.serving-peers/.made:
	@mkdir -p .serving-peers && echo '*' > .serving-peers/.gitignore
	@for each in one two; do test -x .serving-peers/$$each/bin/python || $(PYTHON) -m venv .serving-peers/$$each; done
	for peer in 'fastapi uvicorn uvloop httptools onnxruntime' litserve bentoml mlserver; do .serving-peers/one/bin/python -m pip install --quiet $$peer || exit 1; done
	.serving-peers/two/bin/python -m pip install --quiet kserve 'ray[serve]' 'protobuf<7' onnxruntime
	@touch $@

serving-peers: .serving-peers/.made  ## servers to compare with, in an environment of their own

peers: .peers/.made  ## quantizers to compare with, beside the environment and on top of it

bench: $(VENV)/.bench  ## run every benchmark; results lie in benchmarks/results
	-$(MAKE) peers serving-peers
	$(BIN)/python -m benchmarks

proto: .clients/.made  ## make the gRPC service's descriptor of its .proto
	cd src/tightship/serve/grpc_service && $(abspath .clients/bin/python) -m grpc_tools.protoc -I . --descriptor_set_out=open_inference.desc open_inference.proto

soak: $(VENV)/.bench  ## SOAK_MINUTES (10) of good load and abuse against a server
	$(BIN)/python -m benchmarks.serving.soak $(or $(SOAK_MINUTES),10)

zoo: $(VENV)/.dev  ## convert every model of the zoo to every format; writes docs/zoo.md (hours)
	$(BIN)/python -m benchmarks.zoo

docs: $(VENV)/.dev  ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_coreml.py

clean:           ## remove what the targets made, the environment included
	rm -rf $(VENV) .interop .clients .peers .serving-peers build demo dist .pytest_cache .mypy_cache .ruff_cache
