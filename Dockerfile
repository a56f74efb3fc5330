# recjax with its dependencies; docs/gke.md builds and uses it.
#
#   docker build -t IMAGE --build-arg EXTRAS=tpu .        (several: gpu,gcs; none: CPUs)
#   docker run --rm -v "$PWD:/recjax/work" -w /recjax/work IMAGE --config=recjax:demo
FROM python:3.11-slim

ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# The dependencies are a layer of their own, which a change of the sources does not rebuild.
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements*.txt ./
# The requirements files hold the versions.
# hadolint ignore=DL3013
RUN pip install ".${EXTRAS:+[$EXTRAS]}"

COPY . .
RUN pip install --no-deps --force-reinstall . \
  && useradd --create-home --uid 1000 recjax \
  && install --directory --owner=recjax --group=recjax /recjax

USER 1000
WORKDIR /recjax
ENTRYPOINT ["recjax"]
CMD ["--help"]
