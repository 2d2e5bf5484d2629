# One image for every role; the role is the argument: api, worker, fake, …
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG REVISION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X main.builtFrom=$REVISION" -o /out/sluice ./cmd/sluice \
 && mkdir /out/data

# Nothing but the program and the certificates of the web. There is no Redis in
# here: name one with SLUICE_REDIS__URL, or jobs live as long as the container.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/sluice /sluice
COPY --from=build --chown=65532:65532 /out/data /data
ENV SLUICE_LISTEN=0.0.0.0:8080 \
    SLUICE_OPS_LISTEN=0.0.0.0:9090 \
    SLUICE_DATA_DIR=/data \
    SLUICE_PUBLIC_URL=http://127.0.0.1:8080
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["/sluice", "healthcheck"]
ENTRYPOINT ["/sluice"]
CMD ["--help"]
