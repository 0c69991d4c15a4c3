# Images of this project, none with patients' data in it. Research use only, not a medical device.
#
#   docker build --target serving  --tag brain-mri-segmentation .            the service with one model
#   docker build --target serving-lite --tag brain-mri-segmentation:lite .   the same without PyTorch
#   docker build --target training --tag brain-mri-segmentation:training .   everything that `kedro run` needs
#
# Behind a package mirror, give your pip.conf: --secret id=pip,src=$HOME/.config/pip/pip.conf
# Without a Docker engine: scripts/build_image.py

# Any image with Python 3.11 or 3.12 and venv.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home app
WORKDIR /app

# --- what is installed; pip and its build tools stay behind in these stages ----------------------

FROM base AS sources
# PyTorch without CUDA, which would be gigabytes; for a GPU: --build-arg PIP_EXTRA_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/app/constraints.txt
RUN python3 -m venv /opt/venv
COPY pyproject.toml requirements.txt README.md LICENSE ./
# Versions alone: with hashes, pip would want one of PyTorch and of this project, too.
RUN sed -e '/^ /d' -e 's/ \\$//' requirements.txt > constraints.txt
# Enough for pip to find the dependencies, so that their layer outlives a change of the code.
COPY src/brain_mri_segmentation/__init__.py src/brain_mri_segmentation/

FROM sources AS service-packages
# What an image is made of is listed in it for scanners: CycloneDX, by a tool that stays behind.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install ".[serving-openvino]" \
    && python3 -m venv /opt/sbom && PIP_CONSTRAINT= /opt/sbom/bin/pip install cyclonedx-bom==7.5.0

# Gone is what a running service never needs: headers, packages' own tests, pip; of OpenVINO what runs
# on other processors, or reads other formats than its own; of SciPy all but ndimage and special.
FROM service-packages AS serving-lite-packages
COPY src src
# SimpleITK is the largest package of all, for NRRD and MetaImage alone.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --force-reinstall . \
    && cd /opt/venv/lib/python3*/site-packages \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && rm -r openvino/include openvino/libs/cache.json openvino/libs/libopenvino_intel_[gn]pu_plugin.so \
    && find scipy -mindepth 1 -maxdepth 1 -type d ! -name '_*' ! -name ndimage ! -name special \
            -exec rm -r {} + \
    && find openvino/libs -name 'libopenvino_*_frontend*' ! -name '*_ir_*' -delete \
    && find openvino/frontend -name '*.so' -delete \
    && pip uninstall --yes --quiet simpleitk setuptools pip \
    && /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python --output-file /app/sbom.cdx.json

FROM service-packages AS serving-packages
# serving,segformer for a model of that architecture.
ARG EXTRAS=serving
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install ".[${EXTRAS}]"
COPY src src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --force-reinstall . \
    && cd /opt/venv/lib/python3*/site-packages && rm -r torch/include torch/test \
    && pip uninstall --yes --quiet setuptools pip \
    && /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python --output-file /app/sbom.cdx.json

# --- serving -------------------------------------------------------------------------------------

FROM base AS service
COPY conf/base conf/base
# Settings of your own may be mounted here.
COPY conf/local/README.md conf/local/
# The model artifact: a file or folder of this checkout. Another one at run time: mount it, and name
# it in SERVING_MODEL.
ARG MODEL=data/06_models/pretrained/unet_efficientnet
COPY ${MODEL} ${MODEL}
ENV SERVING_MODEL=${MODEL} UVICORN_HOST=0.0.0.0 UVICORN_PORT=8000
USER app
EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['UVICORN_PORT'] + '/ready', timeout=4)"]
CMD ["python", "-m", "brain_mri_segmentation.serving"]

FROM service AS serving-lite
COPY --from=serving-lite-packages /opt/venv /opt/venv
COPY --from=serving-lite-packages /app/sbom.cdx.json sbom.cdx.json

FROM service AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY --from=serving-packages /app/sbom.cdx.json sbom.cdx.json

# --- a PACS to try the command with: conf/orthanc.json is its configuration ----------------------

FROM base AS pacs
RUN apt-get update && apt-get install --yes --no-install-recommends orthanc orthanc-dicomweb \
    && rm -rf /var/lib/apt/lists/* && install --directory --owner app storage
USER app
EXPOSE 8042
CMD ["Orthanc", "/etc/orthanc.json"]

# --- training: docker run --volume "$PWD/data:/app/data" brain-mri-segmentation:training run ... --

FROM sources AS training-packages
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install ".[training,postgresql,s3]"
# Kedro runs the project from its sources.
COPY src src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install --no-deps --editable .

FROM base AS training
COPY --from=training-packages /opt/venv /opt/venv
COPY pyproject.toml .telemetry ./
COPY conf conf
COPY src src
# Data and runs (mlflow.db, mlruns) are written here; by compose's MLflow server, mlartifacts.
RUN mkdir data mlartifacts && chown app:app . data mlartifacts
USER app
ENTRYPOINT ["kedro"]
CMD ["run"]
