# syntax=docker/dockerfile:1
# trt-afdet on a base image that brings CUDA, TensorRT and its bindings for a Python >= 3.10: servers
# (NGC's TensorRT), JetPack 6 (l4t-jetpack) and JetPack 7 (NGC's TensorRT for arm64). images.yaml
# names base and arguments of each:
#
#   docker compose -f deploy/docker/images.yaml build cuda        # or jetpack6, jetpack7
#
# State: linted; not built, as there was neither a container engine nor a GPU.
ARG BASE=nvcr.io/nvidia/tensorrt:25.01-py3

FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive PIP_CONSTRAINT=
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY cmake cmake
COPY plugins plugins
COPY train/afdet_train train/afdet_train
COPY trt_afdet trt_afdet
ARG EXTRAS=quantize,cameras
# 87 is Orin, 110 is Thor (CUDA 13), the rest are servers and PCs.
ARG CUDA_ARCHITECTURES="75-real;80-real;86-real;89-real;90-real;120"
ARG CUDA_PACKAGE="cuda-python==12.*"
# ON, not AUTO: an image without its kernels or its plugin must not be made.
# The venv sees the image's own packages: the bindings of TensorRT and GStreamer are among them.
# -C came with pip 23.1.
RUN python3 -m venv --system-site-packages /opt/trt-afdet \
 && /opt/trt-afdet/bin/pip install --no-cache-dir --upgrade "pip>=23.1" \
 && /opt/trt-afdet/bin/pip install --no-cache-dir \
      -C cmake.define.AFDET_CUDA=ON \
      -C cmake.define.AFDET_TENSORRT=ON \
      -C "cmake.define.AFDET_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
      ".[${EXTRAS}]" "${CUDA_PACKAGE}" \
 && /opt/trt-afdet/bin/python -c "import tensorrt; print(tensorrt.__version__)"

FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
# GStreamer and its bindings are what csi://, gst:// and a Jetson's decoder are reached through.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 python3-gi \
      gir1.2-gst-plugins-base-1.0 gstreamer1.0-tools gstreamer1.0-plugins-base \
      gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/trt-afdet --groups video trt-afdet
COPY --from=build /opt/trt-afdet /opt/trt-afdet
# What the NVIDIA runtime brings into the container: video is the decoder.
ENV PATH=/opt/trt-afdet/bin:$PATH PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001
WORKDIR /var/lib/trt-afdet
VOLUME /var/lib/trt-afdet
EXPOSE 8080
# Until it serves, an engine may have to be loaded.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["trt-afdet"]
CMD ["run", "/etc/trt-afdet/cameras.yaml"]
