# GAN papers, one folder each. `make` lists what there is.
#   ARGS="--steps 1000"   more flags          CKPT=FILE      a checkpoint (else the newest run's)
#   PYTHON=python3.12     the interpreter     CONSTRAINTS=   install without the tested versions' pins

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
CKPT ?=
JET ?= t
DATA ?= data

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
FOLDERS := $(patsubst %/train.py,%,$(wildcard */train.py))
SETS := fashion-mnist mnist cifar10 celeba folder jets

# A folder or data set that isn't there is an error before anything is installed.
KNOWN := $(foreach verb,train quick eval smoke samples,$(FOLDERS:%=$(verb)-%)) $(SETS:%=data-%)
$(foreach goal,$(filter-out $(KNOWN),$(filter train-% quick-% eval-% smoke-% samples-% data-%,$(MAKECMDGOALS))),\
  $(error there is no $(goal): choose one of $(filter $(firstword $(subst -, ,$(goal)))-%,$(KNOWN))))

# Threads that wait spin briefly, then sleep. A step of quick-mdma on two cores, alone / beside a second such run, s:
# OpenMP's default, long spinning, .06 / 7.5; no spinning .16 / .12 (waking an idle core is slow); 3,000 turns .06 / .29.
export OMP_WAIT_POLICY ?= passive
export GOMP_SPINCOUNT ?= 3000
# glibc keeps up to 1 GB of freed memory. Else it is given back and asked for anew at every step, which takes up to 10 %
# of a small step (page faults per step of mdma with 30 particles: 2,000 / 20).
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

.DEFAULT_GOAL := help
# of samples-<folder>: the shipped file, and how many samples
SHIPPED = $(if $(filter mdma,$*),t30.pt,quick.pt)
DRAWN = $(or $(DRAWN_$*),64)
DRAWN_mdma := 12
DRAWN_egan := 10000
DRAWN_cagan := 100
DRAWN_pan := 8

.PHONY: help setup test mutants lint format smoke read findings bench clean FORCE
.PHONY: data-jets quick-mdma questions-mdma gammas-began table2-egan table3-egan compare-sagan_wgangp table-bigan figures-cagan tables-pan

help:  ## list the targets
	@echo "folders: $(FOLDERS)"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9_%-]+:.*## / { t = $$1; sub(/%/, t ~ /^data/ ? "<set>" : "<folder>", t); \
	  printf "  make %-16s %s\n", t, $$2 }' $(MAKEFILE_LIST)
	@echo
	@sed -n 's/^#   /  /p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv and install requirements (done once; other targets do it by themselves)

$(STAMP): requirements.txt requirements-dev.txt $(CONSTRAINTS)
	@$(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { $(PYTHON) -c 'import sys; sys.exit("error: $(PYTHON) is Python %d.%d, 3.11 or later is needed: make PYTHON=python3.12" \
	  % sys.version_info[:2] if sys.version_info < (3, 11) else 0)' && $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing packages into $(VENV), once: some minutes without further output"
	$(PY) -m pip install -q --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
	  -r requirements.txt -r requirements-dev.txt
	touch $@

test: $(STAMP)  ## run the tests (CPU, a few minutes)
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

mutants: $(STAMP)  ## which changed lines no test notices, e.g. ARGS="--folders began --n 30" (hours; resumable)
	$(PY) -m tests.mutants $(ARGS)

lint: $(STAMP)  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)  ## ruff format, 100 columns
	$(PY) -m ruff format .

data-jets: $(STAMP)  ## simulate jets with PYTHIA, e.g. ARGS="--type q --jets 20000" (mdma)
	$(PY) -m pip install -q --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
	  -r mdma/requirements-pythia.txt
	$(PY) -m mdma.simulate $(ARGS)

data-%: $(STAMP) FORCE  ## fetch a data set, e.g. data-fashion-mnist
	$(PY) -m common.data $* $(ARGS)

train-%: $(STAMP) FORCE  ## train with the paper's settings
	$(PY) -m $*.train $(ARGS)

quick-%: $(STAMP) FORCE  ## a real result on a CPU, in three to thirty minutes by folder
	$(PY) -m $*.train --quick $(ARGS)

quick-mdma:  ## simulate 20,000 jets (JET=t, DATA=data), train on them, evaluate: 15 to 20 minutes on two CPU cores
	$(if $(findstring --out,$(ARGS)),$(error it measures the newest run in runs/mdma: leave --out out, or start mdma.train and mdma.eval))
	$(if $(findstring --jet-type,$(ARGS)),$(error give the type of jets as JET=g, which simulates them, too))
	$(if $(findstring --dataset,$(ARGS)),$(error it simulates its jets: for a file of your own make train-mdma ARGS="--quick --dataset FILE"))
	$(if $(findstring --data-dir,$(ARGS)),$(error give the directory as DATA=DIR, where it simulates, too))
	$(MAKE) data-jets ARGS="--type $(JET) --jets 20000 --data-dir $(DATA)"
	$(PY) -m mdma.train --quick --jet-type $(JET) --data-dir $(DATA) $(ARGS)
	$(PY) -m mdma.eval --data-dir $(DATA)

eval-%: $(STAMP) FORCE  ## measure and draw a checkpoint
	$(PY) -m $*.eval $(if $(CKPT),--ckpt '$(CKPT)') $(ARGS)

samples-%: $(STAMP) FORCE  ## draw samples from the shipped weights, in seconds: runs/<folder>/samples.png
	@mkdir -p runs/$*
	$(PY) -m $*.eval --ckpt $*/results/$(SHIPPED) --samples $(DRAWN) --grid-out runs/$*/samples.png $(ARGS)

questions-mdma: $(STAMP)  ## MDMA beside EPiC-GAN, ablations, more data, reduced, three seeds: 7 hours of a CPU core; resumable
	$(MAKE) data-jets ARGS="--type t --jets 200000"
	$(PY) -m mdma.reproduce --reduced $(ARGS)

gammas-began: $(STAMP)  ## BEGAN at γ = 0.3, 0.5 and 0.8, reduced, three seeds: under two hours of one CPU core; resumable
	$(PY) -m began.reproduce --reduced $(ARGS)

table2-egan: $(STAMP)  ## E-GAN's Table II, reduced to an hour or two of two CPU cores; ARGS= adds flags; resumable
	$(PY) -m egan.reproduce --table2 --reduced $(ARGS)

table3-egan: $(STAMP)  ## E-GAN's Table III, reduced, three seeds: half an hour of two CPU cores; resumable
	$(PY) -m egan.reproduce --table3 --reduced --seeds 3 $(ARGS)

compare-sagan_wgangp: $(STAMP)  ## the five methods at equal time (--quick), three seeds: Figs. 2-4; resumable
	$(PY) -m sagan_wgangp.reproduce --compare $(ARGS)

table-bigan: $(STAMP)  ## BiGAN's MNIST table, reduced, on FashionMNIST; ARGS= adds flags; resumable
	$(PY) -m bigan.reproduce --table --reduced $(ARGS)

figures-cagan: $(STAMP)  ## CA-GAN's Figs. 12-14, §6.3, other losses, the paper's D, classifiers and the toy, reduced; ARGS="--seeds 1" …; resumable
	$(PY) -m cagan.reproduce --reduced $(ARGS)

tables-pan: $(STAMP)  ## PAN's Tables III and IV, reduced, three seeds: hours of two CPU cores; ARGS= adds flags; resumable
	$(PY) -m pan.reproduce --table3 --table4 --reduced $(ARGS)

smoke-%: $(STAMP) FORCE  ## train, save, resume, eval on synthetic data in seconds
	rm -rf runs/$*/smoke
	$(PY) -m $*.train --smoke --steps 6 --out runs/$*/smoke
	$(PY) -m $*.train --resume runs/$*/smoke --steps 12
	$(PY) -m $*.eval --ckpt runs/$*/smoke/last.pt --n 64

smoke: $(addprefix smoke-,$(FOLDERS))  ## smoke of every folder

read: $(STAMP) docs/node_modules  ## build docs/read: each paper beside its code; needs node
	$(PY) -m docs.read

docs/node_modules: docs/package-lock.json
	npm ci --silent --no-audit --no-fund --prefix docs
	touch $@

findings: $(STAMP)  ## collect the folders' tables "What we found" in README.md
	$(PY) -m docs.findings

bench: $(STAMP)  ## steps per second of every folder on this machine
	$(PY) -m tests.bench $(ARGS)

clean:  ## remove .venv, caches and the reading pages; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache docs/node_modules docs/read
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
