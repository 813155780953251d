# The services as images: a target for each, on debian:bookworm-slim.
#
#   docker build --target worker --tag rollcall/worker --build-arg REVISION=$(git rev-parse HEAD) .
#
# `docker compose build` makes all of them. They are compiled together, once.

ARG RUST=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST}-${DEBIAN} AS rust
WORKDIR /src
ENV CARGO_TERM_COLOR=never \
    SERVICES="-p datagen -p dispatcher -p worker -p aggregator"

# The sources, and beside them what the dependencies depend on: the manifests, with empty sources. Later
# stages copy either, so that they stay cached when something else changes.
FROM rust AS sources
COPY . .
RUN rm -r docker && \
    mkdir /skeleton && cp --parents Cargo.toml Cargo.lock */Cargo.toml /skeleton && \
    for crate in /skeleton/*/; do \
        mkdir "$crate/src" && : >"$crate/src/lib.rs" && \
        echo 'fn main() {}' | tee "$crate/src/main.rs" "$crate/build.rs" >/dev/null || exit; \
    done

# The dependencies, polars, librdkafka and OpenSSL among them, are a layer of their own. It lasts until a manifest
# or the lock file changes, and then the cache makes sure that only what has changed is compiled.
FROM rust AS dependencies
COPY --from=sources /skeleton .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/cache/target,sharing=locked \
    cargo build --release --locked --target-dir /cache/target $SERVICES && \
    cargo clean --release --target-dir /cache/target --workspace && \
    rm -r * && cp -a /cache/target target

FROM dependencies AS build
COPY --from=sources /src .
# Without line numbers, which are half of a binary, and with the names of functions.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked $SERVICES && \
    mkdir /binaries && \
    for service in datagen dispatcher worker aggregator; do \
        strip --strip-debug -o "/binaries/$service" "target/release/$service" || exit; \
    done

# What all images have in common: a user without rights, and folders that volumes take their owner from.
FROM debian:${DEBIAN}-slim AS service
RUN groupadd --gid 10001 rollcall && \
    useradd --uid 10001 --gid rollcall --no-create-home --home-dir / --shell /usr/sbin/nologin rollcall && \
    install --directory --owner rollcall --group rollcall /data /out
COPY docker/bin/ /usr/local/bin/
# Authorities that brokers' certificates may be signed by; OpenSSL itself is linked in.
COPY --from=rust /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
WORKDIR /out
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="rollcall" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

FROM service AS datagen
COPY --from=build /binaries/datagen /usr/local/bin/
RUN ["datagen", "--version"]
LABEL org.opencontainers.image.title="rollcall datagen" \
      org.opencontainers.image.description="Fake COVID test records"
ENTRYPOINT ["datagen"]

FROM service AS dispatcher
COPY --from=build /binaries/dispatcher /usr/local/bin/
RUN ["dispatcher", "--version"]
LABEL org.opencontainers.image.title="rollcall dispatcher" \
      org.opencontainers.image.description="Data set to jobs to topic, then the manifest"
ENTRYPOINT ["dispatcher"]

FROM service AS worker
COPY --from=build /binaries/worker /usr/local/bin/
RUN ["worker", "--version"]
LABEL org.opencontainers.image.title="rollcall worker" \
      org.opencontainers.image.description="Job to tally to topic; scaled by starting more of them"
EXPOSE 9464
ENTRYPOINT ["worker"]
CMD ["--listen", "0.0.0.0:9464"]

FROM service AS aggregator
COPY --from=build /binaries/aggregator /usr/local/bin/
RUN ["aggregator", "--version"]
LABEL org.opencontainers.image.title="rollcall aggregator" \
      org.opencontainers.image.description="Outcomes to ledger to time series; reconciliation and report"
ENTRYPOINT ["aggregator"]
