# One static binary and nothing else: docker build -t weft .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN make dist DIST=/out && mkdir -p /state
# For `weft redirect` where the container adds NET_ADMIN and the user is not root. Permitted only: the sidecar, which has
# no capability, could not start a file that brings an effective one.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libcap2-bin && setcap cap_net_admin+p /out/weft

FROM scratch
COPY --from=build /out/weft /weft
# Where the outbox stands unless the routing file says otherwise; mount a volume here to keep it.
COPY --from=build --chown=15001:15001 /state /var/lib/weft
ENV XDG_STATE_HOME=/var/lib
# A user of weft's own: `weft redirect` knows the sidecar's connections by it, and images of applications often run as
# 1000 or 65532.
USER 15001:15001
ENTRYPOINT ["/weft"]
CMD ["run", "-c", "/etc/weft/weft.yaml"]
