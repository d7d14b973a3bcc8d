FROM base AS a
FROM base AS a
COPY --from=a /opt/one /x
