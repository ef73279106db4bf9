FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
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
COPY requirements.txt .
RUN pip install --requirement requirements.txt
COPY app.py LICENSE ./
COPY wan_ui wan_ui

USER wan
VOLUME ["/models", "/loras", "/data", "/cache"]

# The app binds 127.0.0.1 of its network unless told otherwise: --host 0.0.0.0, or docker run --network host. See README.md.
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('WAN_UI_PORT') or 7860}/v1/health\", timeout=4)"]

ENTRYPOINT ["python", "app.py"]
