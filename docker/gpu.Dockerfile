# Worker and server: everything of the project with torch.
#   docker build -f docker/gpu.Dockerfile -t attune-gpu .
# Without TORCH_INDEX_URL the package index gives torch's CUDA build (it brings its own CUDA libraries; the host needs
# the driver and the NVIDIA container toolkit). For a machine without a GPU, pass the index of torch's CPU builds,
# which saves gigabytes:
#   docker build -f docker/gpu.Dockerfile --build-arg TORCH_INDEX_URL=… -t attune-cpu .
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /source
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch first and by itself: gigabytes that change with its version alone
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['tested'], sep='\n')" \
        > torch.txt \
    && pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --requirement torch.txt
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['gpu'], sep='\n')" \
        > needs.txt \
    && pip install --requirement torch.txt --requirement needs.txt
COPY README.md ./
COPY core core
COPY api api
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN pip install --no-deps .

FROM python:3.12-slim-bookworm
# HOME on the volume: compiled kernels are cached there, and a tmpfs is mounted noexec. TMPDIR too: /tmp is memory
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ATTUNE_DATA_DIR=/data ATTUNE_MODELS_DIR=/models ATTUNE_SERVE_HOST=0.0.0.0 ATTUNE_SERVE_PORT=8001 \
    HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE HOME=/data TMPDIR=/data
# bitsandbytes' CPU library wants the system's OpenMP. Unpinned: Debian keeps one version, and drops the one before
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin attune \
    && install --directory --owner=attune --group=attune --mode=0750 /data /models
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/attune
COPY docker/worker_health.py docker/worker_health.py
USER 10001:10001
VOLUME ["/data", "/models"]
EXPOSE 8001
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["python", "docker/worker_health.py"]
CMD ["celery", "-A", "worker.app", "worker", "--pool", "threads", "--concurrency", "1", "--without-gossip", \
     "--without-mingle", "--without-heartbeat", "--loglevel", "info"]
