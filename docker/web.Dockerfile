# The web side: API, janitor, migrations. No torch: it installs the project's own dependencies and nothing of [gpu].
#   docker build -f docker/web.Dockerfile -t attune-web .
FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /source
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# dependencies first: this layer is made anew only when pyproject.toml changes
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > needs.txt \
    && pip install --requirement needs.txt
COPY README.md ./
COPY core core
COPY api api
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN pip install --no-deps . \
    && python -c "import importlib.util as u; assert u.find_spec('torch') is None, 'torch is in the web image'"

FROM python:3.12-slim-bookworm
# TMPDIR on the volume: a training file is as large as the upload limit, and /tmp is memory
# MALLOC_ARENA_MAX: threads come and go, and glibc's arena for each of them would hold what the last one needed
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2 \
    ATTUNE_DATA_DIR=/data ATTUNE_HOST=0.0.0.0 ATTUNE_PORT=8000 HOME=/data TMPDIR=/data
# these folders belong to the user, so that an empty volume mounted there does too
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin attune \
    && install --directory --owner=attune --group=attune --mode=0750 /data /models /operator
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/attune
COPY docker/make_bucket.py docker/make_bucket.py
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["uvicorn", "api.app:app", "--host", "0.0.0.0", "--port", "8000", \
     "--http", "api.http_head:BoundedHead", "--no-access-log", "--timeout-graceful-shutdown", "10"]
