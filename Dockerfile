# docker build -t kdrepro . && docker run --rm kdrepro     runs `make book` and `make test`
# docker run --rm -it -v "$PWD/runs:/kdrepro/runs" kdrepro .venv/bin/kdrepro run 02-mnist
FROM python:3.11-slim-bookworm

# make for the two commands, git for the commit that records name; no compiler: every dependency is a wheel.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /kdrepro
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The environment of the published run, by its hashes; another layer, so that a change of the code leaves it alone.
COPY requirements.lock ./
RUN python -m venv .venv && .venv/bin/python -m pip install --require-hashes --requirement requirements.lock

COPY . .
RUN .venv/bin/python -m pip install --no-deps --editable . && touch .venv/installed

CMD ["sh", "-c", "make book && make test"]
