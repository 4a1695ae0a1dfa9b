# One static binary and nothing else: docker build -t weft .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN make dist DIST=/out && mkdir -p /state

FROM scratch
COPY --from=build /out/weft /weft
# Where the outbox stands unless the routing file says otherwise; mount a volume here to keep it.
COPY --from=build --chown=65532:65532 /state /var/lib/weft
ENV XDG_STATE_HOME=/var/lib
USER 65532:65532
ENTRYPOINT ["/weft"]
CMD ["run", "-c", "/etc/weft/weft.yaml"]
