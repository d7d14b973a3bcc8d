FROM base
COPY over/data/a /m/x/deep
COPY a.txt /m/deep/
COPY --from=base /opt/one /m/deep/a.txt/
#: refused
