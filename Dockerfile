# The page and the HTTP API of `serve`: answers only, no torch, no compiler, nobody's rights, nothing written.
#
#   docker build -t lightning-cifake .
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:8000:8000 lightning-cifake
#
# Arguments of serve go behind the image's name: ... lightning-cifake --model best --token_file /run/secrets/token

FROM python:3.12-slim AS build
WORKDIR /src
COPY LICENSE MANIFEST.in README.md pyproject.toml ./
COPY checkpoints checkpoints
COPY configs configs
COPY lightning_cifake lightning_cifake
RUN python -m venv /opt/serve \
    && /opt/serve/bin/python -m pip install --no-cache-dir --disable-pip-version-check '.[web]' \
    && /opt/serve/bin/python -m pip uninstall --yes pip

FROM python:3.12-slim
COPY --from=build /opt/serve /opt/serve
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["/opt/serve/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/serve/bin/lightning-cifake", "serve", "--host", "0.0.0.0", "--port", "8000"]
