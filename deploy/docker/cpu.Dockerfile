# syntax=docker/dockerfile:1
# trt-afdet for x86-64 and arm64 without a GPU: ONNX Runtime on the CPU.
#
#   docker build -f deploy/docker/cpu.Dockerfile -t trt-afdet:cpu .
#   docker run --rm -p 127.0.0.1:8080:8080 -v ./cameras.yaml:/etc/trt-afdet/cameras.yaml:ro trt-afdet:cpu
#
# State: linted; its commands were run outside a container; the image was not built.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY cmake cmake
COPY plugins plugins
COPY train/afdet_train train/afdet_train
COPY trt_afdet trt_afdet
ARG EXTRAS=cameras
RUN python -m venv /opt/trt-afdet \
 && /opt/trt-afdet/bin/pip install --no-cache-dir -C cmake.define.AFDET_CUDA=OFF ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# OpenCV's windows are not used, but its library is linked to what draws them.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/trt-afdet --groups video trt-afdet
COPY --from=build /opt/trt-afdet /opt/trt-afdet
ENV PATH=/opt/trt-afdet/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/trt-afdet
VOLUME /var/lib/trt-afdet
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["trt-afdet"]
CMD ["run", "/etc/trt-afdet/cameras.yaml"]
