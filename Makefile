# Two commands do all the set-up: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

$(READY): pyproject.toml constraints.txt $(shell find runtime/kernels -type f)
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt "scikit-build-core>=1.0" cmake ninja
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[cpu,compress,genai,test]"
	touch $@

.PHONY: setup demo test lint types bench clean
setup: $(READY)

demo: $(READY)
	$(BIN)/edgepress demo -o demo-output

# Speed, memory and load time of the demo's bundles; close other programs first.
bench: demo
	$(BIN)/edgepress bench demo-output/16-bit demo-output/8-bit demo-output/4-bit

test: lint types
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not run import hooks: mirror the package table of pyproject.toml as symlinks.
types: $(READY)
	rm -rf build/types && mkdir -p build/types/edgepress
	ln -s $(addprefix $(CURDIR)/,$(wildcard edgepress/*) compress export runtime devices) build/types/edgepress/
	$(BIN)/mypy -p edgepress

clean:
	rm -rf build demo-output $(VENV)
