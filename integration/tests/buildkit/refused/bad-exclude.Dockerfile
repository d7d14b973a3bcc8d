FROM base
COPY --exclude=[a a.txt /
#: refused
