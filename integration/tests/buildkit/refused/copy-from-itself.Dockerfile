FROM base AS me
COPY --from=me /opt/one /x
#: refused
