# syntax=docker/dockerfile:1
# trt-afdet on JetPack 5 (Xavier, Orin). Its Python is 3.8 and TensorRT's bindings are for that one,
# so a Python 3.10 is put beside it and the bindings are built for it from NVIDIA's source.
#
#   docker compose -f deploy/docker/images.yaml build jetpack5     # on the Jetson
#
# State: linted; not built, as there was neither a container engine nor a Jetson.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r35.4.1

FROM ghcr.io/astral-sh/uv:0.5.29 AS uv

FROM ${BASE} AS python
COPY --from=uv /uv /usr/local/bin/uv
# Ubuntu 20.04 is out of support, and so is its PPA of newer Pythons; uv's are made for old systems.
ENV UV_PYTHON_INSTALL_DIR=/opt/python
RUN uv python install 3.10 \
 && uv venv --seed --python 3.10 /opt/trt-afdet

FROM python AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake git pkg-config \
      libcairo2-dev libgirepository1.0-dev \
 && rm -rf /var/lib/apt/lists/*
# Bindings for this Python: of the image's TensorRT, and of GStreamer (PyGObject 3.42, as the libraries
# of Ubuntu 20.04 are too old for later ones).
COPY deploy/jetson/build_bindings.sh /usr/local/bin/build_bindings.sh
RUN build_bindings.sh /opt/trt-afdet/bin/python /wheels \
 && /opt/trt-afdet/bin/pip wheel --no-cache-dir --wheel-dir /wheels "PyGObject==3.42.*"
WORKDIR /src
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY cmake cmake
COPY plugins plugins
COPY train/afdet_train train/afdet_train
COPY trt_afdet trt_afdet
ARG EXTRAS=quantize,cameras
# Xavier and Orin.
ARG CUDA_ARCHITECTURES="72-real;87-real"
# cuda-python needs CUDA 12; pycuda is compiled for the 11.4 of this image.
ENV PATH=/usr/local/cuda/bin:$PATH
RUN find /wheels -name '*.whl' -exec /opt/trt-afdet/bin/pip install --no-cache-dir {} + \
 && /opt/trt-afdet/bin/pip install --no-cache-dir \
      -C cmake.define.AFDET_CUDA=ON \
      -C cmake.define.AFDET_TENSORRT=ON \
      -C "cmake.define.AFDET_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
      ".[${EXTRAS}]" pycuda \
 && /opt/trt-afdet/bin/python -c "import tensorrt; print(tensorrt.__version__)"

FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libgirepository-1.0-1 \
      gir1.2-gst-plugins-base-1.0 gstreamer1.0-tools gstreamer1.0-plugins-base \
      gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/trt-afdet --groups video trt-afdet
COPY --from=python /opt/python /opt/python
COPY --from=build /opt/trt-afdet /opt/trt-afdet
ENV PATH=/opt/trt-afdet/bin:$PATH PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=all
USER 10001
WORKDIR /var/lib/trt-afdet
VOLUME /var/lib/trt-afdet
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["trt-afdet"]
CMD ["run", "/etc/trt-afdet/cameras.yaml"]
