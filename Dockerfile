FROM rust:1-slim-bookworm AS build
WORKDIR /src
ENV SQLX_OFFLINE=true
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin roster \
    && cp target/release/roster /usr/local/bin/roster

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin roster
COPY --from=build /usr/local/bin/roster /usr/local/bin/roster
USER 10001
ENV ROSTER_HTTP=0.0.0.0:9464
EXPOSE 9464
# Asks /readyz, so that a worker cut off from a server shows as unhealthy.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["roster", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["roster"]
CMD ["serve"]
