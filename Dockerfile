# One image for the learner, the actors and every node of a cluster.
#   CPU:   docker build -t bmg .
#   CUDA:  docker build -t bmg:cuda --build-arg EXTRAS=cuda .
# The CUDA libraries come with the jax wheels; the host needs an NVIDIA driver and the container
# toolkit (docker run --gpus all). Run folders: docker run -v "$PWD/runs:/home/bmg/runs" bmg ...
# Exact versions and a digest, so that an image that is built again is the same one. For another Python:
# `docker buildx imagetools inspect python:3.11-slim-bookworm` tells its digest.
ARG BASE=python:3.12.11-slim-bookworm@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7
FROM ${BASE}

# "" for CPUs, "cuda" for NVIDIA GPUs; several are separated by spaces ("cuda wandb").
ARG EXTRAS=""

RUN pip install --no-cache-dir uv==0.13.9 \
    && useradd --create-home --uid 1000 bmg \
    && mkdir /opt/bmg && chown bmg /opt/bmg
USER bmg
WORKDIR /opt/bmg

# Dependencies first: they change more seldom than the code, and Docker keeps their layer.
COPY --chown=bmg pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --no-install-project --no-cache $(for extra in $EXTRAS; do echo "--extra $extra"; done)
COPY --chown=bmg agents agents
COPY --chown=bmg actors actors
COPY --chown=bmg learner learner
COPY --chown=bmg configs configs
COPY --chown=bmg scripts scripts
COPY --chown=bmg bmg bmg
RUN uv sync --locked --no-dev --no-editable --no-cache $(for extra in $EXTRAS; do echo "--extra $extra"; done)

ENV PATH=/opt/bmg/.venv/bin:$PATH
WORKDIR /home/bmg
ENTRYPOINT ["bmg"]
CMD ["--help"]
