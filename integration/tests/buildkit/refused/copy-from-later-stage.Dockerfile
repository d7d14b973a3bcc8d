FROM base AS first
COPY --from=second /opt/one /x
FROM base AS second
#: target first
#: refused
