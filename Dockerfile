# The tag moves with Debian's security updates; scripts/pin-image adds the digest of the image that it names today.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONPATH=/app \
    HF_HOME=/cache \
    WAN_UI_MODELS_DIR=/models \
    WAN_UI_LORA_DIR=/loras \
    WAN_UI_DATA_DIR=/data

# Compiled transformers: Triton builds a small launcher with a C compiler when it starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 wan \
    && install --directory --owner wan --group wan /models /loras /data /cache

WORKDIR /app
# torch has a file of its own, without hashes: its builds differ from machine to machine. All else is what was locked.
COPY requirements-torch.txt requirements.txt ./
RUN pip install --requirement requirements-torch.txt \
    && pip install --no-deps --require-hashes --requirement requirements.txt \
    && pip check
COPY app.py LICENSE deploy/healthcheck.py ./
COPY wan_ui wan_ui
RUN python -m compileall -q wan_ui

USER wan
# The only paths that are written to, besides /tmp: run it with --read-only --tmpfs /tmp, as deploy/compose.yaml does.
VOLUME ["/models", "/loras", "/data", "/cache"]

# The app binds 127.0.0.1 of its network unless told otherwise: --host 0.0.0.0, or docker run --network host. See README.md.
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s CMD ["python", "healthcheck.py"]

ENTRYPOINT ["python", "app.py"]
