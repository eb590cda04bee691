# The image is built from the locks alone: what has no hash does not get in. Build: docker build -t tokenworks .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# The data plane is compiled here; the image that runs has no compiler.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/build.lock requirements/compile.lock requirements/run.lock requirements/fonts.lock requirements/
RUN python -m venv /opt/tokenworks && python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --no-deps -r requirements/build.lock -r requirements/compile.lock \
 && for lock in run fonts; do /opt/tokenworks/bin/python -m pip install --require-hashes --no-deps -r requirements/$lock.lock || exit 1; done
COPY pyproject.toml README.md LICENSE compiled.toml hatch_build.py ./
COPY scripts/compile.py scripts/compile.py
COPY src src
# mypy reads the types of what is installed.
RUN TOKENWORKS_COMPILE=1 PYTHONPATH=/opt/tokenworks/lib/python3.11/site-packages /opt/build/bin/python -m hatchling build -t wheel -d /dist \
 && /opt/tokenworks/bin/python -m pip install --no-index --no-deps /dist/*.whl

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 tokenworks && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin tokenworks \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /opt/tokenworks /opt/tokenworks
ENV PATH=/opt/tokenworks/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TOKENWORKS_DATA_DIR=/data \
    TOKENWORKS_LISTEN=0.0.0.0:8080 \
    TOKENWORKS_ADMIN_LISTEN=0.0.0.0:8081
# Not root: PostgreSQL refuses root, and nothing here needs it.
USER 10001:10001
VOLUME /data
EXPOSE 8080 8081
# Drains: drain_grace_s, then drain_s. Give it longer than both before it is killed (docker stop -t 90).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/healthz', timeout=4)"]
ENTRYPOINT ["tokenworks"]
CMD ["serve"]
