# An image of kbuild for the local builder: kbuild, git and the sandbox. docs/ci.md tells how to run it.
# A digest names the same image for ever; Dependabot proposes newer ones. BASE may be any Debian with
# Python 3.11 or newer, for example from your own registry.
ARG BASE=debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${BASE} AS build
# Another index for pip. It stays in this stage, which is no part of the image.
ARG PIP_INDEX_URL=https://pypi.org/simple
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv
RUN python3 -m venv /opt/kbuild
COPY locks/release.txt /src/locks/
RUN /opt/kbuild/bin/pip install --require-hashes --only-binary :all: --requirement /src/locks/release.txt
COPY . /src
RUN /opt/kbuild/bin/pip install --no-deps --no-build-isolation /src

FROM ${BASE}
# For example "qemu-user-static" to prove other architectures, "rpm" for --package rpm, or
# "openssh-client".
ARG EXTRA_PACKAGES=
RUN apt-get update \
  && apt-get install --yes --no-install-recommends bubblewrap ca-certificates git python3 $EXTRA_PACKAGES \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/kbuild /opt/kbuild
# Any user may run it, because the files in a directory of the host should belong to its owner.
RUN echo 'kbuild:x:65532:65532::/work:/usr/sbin/nologin' >>/etc/passwd \
  && echo 'kbuild:x:65532:' >>/etc/group \
  && mkdir --mode 1777 /cache /work
ENV PATH=/opt/kbuild/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  KBUILD_BUILDER=local \
  KBUILD_CACHE_DIR=/cache
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["kbuild"]
