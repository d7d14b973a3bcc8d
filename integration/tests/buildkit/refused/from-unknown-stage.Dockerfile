FROM base
COPY --from=5 /x /
#: refused
